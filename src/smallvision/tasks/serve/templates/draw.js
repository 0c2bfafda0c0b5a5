"use strict";
// Draw an image, or drop one, and see the probabilities change. One request is under way at a time; of what is drawn
// in the meantime the latest is sent next. The sentences are in draw.html.
const by = (id) => document.getElementById(id);
const canvas = by("canvas");
const rows = [...by("bars").rows];
const MAX_ROWS = 20;
const PEN = 20; // pixels of the canvas, which has 280
const EMPTY = by("message").textContent;
let next = null; // the image to send next, a Blob or a function that gives one
let busy = false;
let generation = 0; // rises when the canvas is cleared: answers to earlier images are dropped

by("curl").textContent = by("curl").textContent.replace("http://HOST", location.origin);

async function predict(image) {
  next = image;
  if (busy) return;
  busy = true;
  while (next) {
    const current = next, began = generation;
    next = null;
    try {
      const body = typeof current === "function" ? await current() : current;
      const answer = await fetch("/predict", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body });
      const content = await answer.json();
      if (began === generation) show(content);
    } catch (error) {
      if (began === generation) reset(by("silent").innerHTML);
    }
  }
  busy = false;
}

function show(answer) {
  const prediction = (answer.predictions || [])[0];
  if (!prediction || prediction.error) return reset((prediction || answer).error);
  by("class").textContent = prediction.class;
  by("message").textContent = by("probability").innerHTML + percent(prediction.probability);
  const order = prediction.probabilities.map((probability, label) => [probability, label]).sort((a, b) => b[0] - a[0]);
  const shown = new Set(order.slice(0, MAX_ROWS).map(([, label]) => label));
  rows.forEach((row, label) => {
    const probability = prediction.probabilities[label];
    row.hidden = !shown.has(label);
    row.className = label === order[0][1] ? "first" : "";
    row.querySelector("span").style.width = `${100 * probability}%`;
    row.cells[2].textContent = percent(probability);
  });
  by("seen").src = prediction.seen;
  by("inverted").hidden = prediction.polarity !== "inverted";
  by("resize").textContent = prediction.resize;
  by("seen").hidden = by("prepared").hidden = false;
}

function reset(message) {
  by("class").textContent = "\u00a0";
  by("message").textContent = message;
  by("seen").hidden = by("prepared").hidden = true;
  rows.forEach((row) => {
    row.className = "";
    row.querySelector("span").style.width = "0";
    row.cells[2].textContent = "-";
  });
}

function percent(fraction) {
  return fraction >= 0.9995 ? "> 99.9 %" : `${(100 * fraction).toFixed(1)} %`; // no probability is 1
}

if (canvas) {
  const pen = canvas.getContext("2d");
  let last = null;

  const blank = () => {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
  };
  const position = (event) => {
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
    predict(() => new Promise((done) => canvas.toBlob(done, "image/png")));
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = position(event);
    line(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const here = position(event);
    line(last, here);
    last = here;
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  by("clear").addEventListener("click", () => {
    generation += 1;
    next = null;
    blank();
    reset(EMPTY);
  });
  blank();
}

by("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) predict(file);
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
  if (file) predict(file);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.items].map((item) => item.getAsFile()).find(Boolean);
  if (file) predict(file);
});
