"use strict";
// Draw or drop, and see the probabilities move. One request is under way at a time; of what was drawn in the
// meantime the latest is asked next.
const by = (id) => document.getElementById(id);
const canvas = by("canvas");
const rows = [...by("bars").rows];
const MOST_ROWS = 20;
const PEN = 20; // pixels of the canvas, which has 280
let waiting = null; // the next picture to ask, a Blob or a function that gives one
let asking = false;
let generation = 0; // rises when the canvas is cleared: older answers are of no interest

by("curl").textContent = `curl --data-binary @picture.png ${location.origin}/predict`;

async function ask(picture) {
  waiting = picture;
  if (asking) return;
  asking = true;
  while (waiting) {
    const made = waiting, began = generation;
    waiting = null;
    try {
      const blob = typeof made === "function" ? await made() : made;
      const answer = await fetch("/predict", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: blob });
      const said = await answer.json();
      if (began === generation) show(said);
    } catch (error) {
      if (began === generation) fail("The server does not answer.");
    }
  }
  asking = false;
}

function show(said) {
  const one = (said.predictions || [])[0];
  if (!one || one.error) return fail((one && one.error) || said.error);
  by("class").textContent = one.class;
  by("words").textContent = `with a probability of ${percent(one.probability)}`;
  const order = one.probabilities.map((share, place) => [share, place]).sort((a, b) => b[0] - a[0]);
  const shown = new Set(order.slice(0, MOST_ROWS).map(([, place]) => place));
  rows.forEach((row, place) => {
    const share = one.probabilities[place];
    row.hidden = !shown.has(place);
    row.className = place === order[0][1] ? "first" : "";
    row.querySelector("span").style.width = `${100 * share}%`;
    row.cells[2].textContent = percent(share);
  });
  by("seen").src = one.seen;
  by("seen").hidden = false;
  const turned = one.polarity === "inverted" ? "dark on light: inverted; " : "";
  by("frame").textContent = `What the network sees: ${turned}${one.resize}.`;
}

function fail(words) {
  reset(words);
}

function reset(words) {
  by("class").textContent = "\u00a0";
  by("words").textContent = words;
  by("seen").hidden = true;
  by("frame").textContent = "";
  rows.forEach((row) => {
    row.className = "";
    row.querySelector("span").style.width = "0";
    row.cells[2].textContent = "-";
  });
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

if (canvas) {
  const pen = canvas.getContext("2d");
  let last = null;

  const blank = () => {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  };
  const line = (from, to) => {
    pen.strokeStyle = "#000";
    pen.lineWidth = PEN;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
    ask(() => new Promise((done) => canvas.toBlob(done, "image/png")));
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    line(last, next);
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  by("clear").addEventListener("click", () => {
    generation += 1;
    waiting = null;
    blank();
    reset("Nothing is drawn yet.");
  });
  blank();
}

by("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) ask(file);
  event.target.value = "";
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) ask(file);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.items].map((item) => item.getAsFile()).find(Boolean);
  if (file) ask(file);
});
