"""What pyproject.toml cannot say: configs/ is installed within the package, as smallvision/configs."""

from pathlib import Path
from shutil import copytree, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """A checkout, and what is installed from it with pip install -e, reads configs/ where it is."""

    def run(self) -> None:
        if not self.editable_mode:
            rmtree(Path(self.build_lib, "smallvision"), ignore_errors=True)  # of an earlier build
        super().run()
        if not self.editable_mode:
            copytree("configs", Path(self.build_lib, "smallvision/configs"))


setup(cmdclass={"build_py": BuildWithConfigs})
