"use strict";
const report = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (share) => (100 * share).toFixed(share % 1 && (share > 0.995 || share < 0.1) ? 1 : 0).replace(/^(0|100)\.0$/, "$1") + " %";
function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  if (className) element.className = className;
  return element;
}

// The image viewer: one canvas on which an image, its map and its mask's outline are drawn anew on every change.
const viewer = report.viewer && (function () {
  const { classes, blocks, longest, colours, images } = report.viewer;
  const canvas = byId("v-canvas"), context = canvas.getContext("2d");
  const pictures = new Map(); // data URI -> Image
  const filters = ["v-true", "v-predicted", "v-answer", "v-sure"].map(byId).filter(Boolean);
  let shown = images.map((_, i) => i), current = 0, drawn = 0, origin;

  const value = (id) => (byId(id) ? byId(id).value : "");
  const block = () => Number(byId("v-block").value);
  const rule = () => value("v-rule") || Object.keys(images[0].maps)[0];
  const ofTrue = (image) => value("v-class") === "true" && rule() in image.true_maps;
  const explained = (image) => classes[ofTrue(image) ? image.true : image.explained];
  const isWrong = (image) => image.true !== image.predicted;

  function loaded(source) {
    if (!pictures.has(source)) {
      const picture = new Image();
      picture.src = source;
      pictures.set(source, picture.decode().then(() => picture));
    }
    return pictures.get(source);
  }

  function fits(image) {
    const answer = value("v-answer"), band = value("v-sure").split("-").map(Number);
    if (value("v-true") !== "" && image.true !== Number(value("v-true"))) return false;
    if (value("v-predicted") !== "" && image.predicted !== Number(value("v-predicted"))) return false;
    if (answer && isWrong(image) !== (answer === "wrong")) return false;
    return band.length < 2 || (image.shares[0][1] >= band[0] && image.shares[0][1] < band[1]);
  }

  // The map in its colours, as opaque as it is strong; `heat` holds its grey values at the canvas's size.
  function coloured(heat, strength) {
    const pixels = heat.data;
    for (let i = 0; i < pixels.length; i += 4) {
      const level = pixels[i];
      pixels[i] = colours[3 * level];
      pixels[i + 1] = colours[3 * level + 1];
      pixels[i + 2] = colours[3 * level + 2];
      pixels[i + 3] = level * strength;
    }
    return heat;
  }

  function scratch(width, height) {
    const layer = document.createElement("canvas");
    layer.width = width;
    layer.height = height;
    return layer;
  }

  async function draw() {
    const image = images[current], turn = ++drawn;
    const [picture, sheet] = await Promise.all([loaded(image.picture), loaded((ofTrue(image) ? image.true_maps : image.maps)[rule()])]);
    if (turn !== drawn) return; // a later change came first
    const scale = longest / Math.max(...image.size), [w, h] = image.map;
    canvas.width = Math.max(Math.round(image.size[0] * scale), 1);
    canvas.height = Math.max(Math.round(image.size[1] * scale), 1);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    // one map alone first, so that smoothing does not mix it with its neighbours on the sheet
    const cell = scratch(w, h), layer = scratch(canvas.width, canvas.height);
    cell.getContext("2d").drawImage(sheet, 0, h * block(), w, h, 0, 0, w, h);
    const over = layer.getContext("2d", { willReadFrequently: true });
    over.drawImage(cell, 0, 0, layer.width, layer.height);
    const heat = over.getImageData(0, 0, layer.width, layer.height);
    over.putImageData(coloured(heat, Number(value("v-strength")) / 100), 0, 0);
    context.drawImage(layer, 0, 0);
    if (byId("v-outline") && byId("v-outline").checked) outline(image);
    canvas.dataset.drawn = turn;
  }

  function outline(image) {
    for (const [width, colour] of [[4, "#000"], [2, "#50dc64"]]) {
      context.beginPath();
      for (const polygon of image.outline) {
        for (let i = 0; i < polygon.length; i += 2) {
          const at = [polygon[i] + 0.5, polygon[i + 1] + 0.5];
          if (i) context.lineTo(...at);
          else context.moveTo(...at);
        }
        context.closePath();
      }
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke();
    }
  }

  function describe() {
    const image = images[current], about = byId("v-about"), name = "Block " + blocks[block()];
    const answer = make("p", isWrong(image) ? "✗ wrong" : "✓ right", isWrong(image) ? "answer wrong" : "answer right");
    const list = make("dl");
    const sure = image.shares.length ? " (" + percent(image.shares[0][1]) + ")" : "";
    const iou = image.iou === null ? [] : [["IoU with the mask", image.iou.toFixed(2)]];
    const others = image.shares.slice(1).filter(([, s]) => percent(s) !== "0 %").map(([c, share]) => classes[c] + " " + percent(share)).join(", ");
    for (const [term, text] of [
      ["true class", classes[image.true]],
      ["predicted", classes[image.predicted] + sure],
      ...(others ? [["then", others]] : []),
      ...iou,
      ["map of", explained(image)],
      ...(image.label ? [["label doubtful", "perhaps " + image.label]] : []),
      ["file", image.file],
      ...(image.fold ? [["tested in", "fold " + image.fold]] : []),
    ]) list.append(make("dt", text && term), make("dd", text));
    about.replaceChildren(answer, list);
    byId("v-block-name").textContent = blocks[block()];
    byId("v-block").setAttribute("aria-valuetext", name);
    const empty = (ofTrue(image) ? image.true_empty : image.empty)[rule()].includes(blocks[block()]);
    // Checked are the Grad-CAM maps of the predicted class.
    const applies = rule() === "gradcam" && !ofTrue(image);
    const doubts = applies && image.doubts.length ? image.doubts[block()] : "";
    const unchecked = image.doubts.length && !applies ? "Not checked: only Grad-CAM maps of the predicted class were." : "";
    byId("v-empty").textContent = empty ? name + " found no positive evidence for " + explained(image) + " here."
      : doubts ? "⚠ Do not rely on this map: " + doubts + "." : unchecked;
    byId("v-place").textContent = shown.indexOf(current) + 1 + " of " + shown.length;
    canvas.setAttribute("aria-label", image.file + ": true class " + classes[image.true] + ", predicted "
      + classes[image.predicted] + sure + ", with the heatmap of " + name + " for " + explained(image));
    for (const thumb of byId("v-thumbs").children) {
      thumb.setAttribute("aria-pressed", String(Number(thumb.dataset.image) === current));
    }
  }

  function show(number) {
    current = number;
    describe();
    draw();
  }

  function turn(step) {
    if (shown.length) show(shown[(shown.indexOf(current) + step + shown.length) % shown.length]);
  }

  function filter() {
    shown = images.map((_, i) => i).filter((i) => fits(images[i]));
    const wrong = shown.filter((i) => isWrong(images[i])).length;
    byId("v-count").textContent = shown.length
      ? shown.length + (shown.length === 1 ? " image, " : " images, ") + wrong + " wrong."
      : "No image on this page is like that.";
    for (const thumb of byId("v-thumbs").children) thumb.hidden = !shown.includes(Number(thumb.dataset.image));
    document.querySelector(".looking").hidden = !shown.length;
    if (shown.length) show(shown.includes(current) ? current : shown[0]);
  }

  function thumbnails() {
    images.forEach((image, i) => {
      const button = make("button", "", isWrong(image) ? "wrong" : ""), picture = make("img");
      const name = classes[image.true] + (isWrong(image) ? ", predicted " + classes[image.predicted] : "");
      picture.src = image.picture;
      picture.alt = "";
      button.type = "button";
      button.dataset.image = i;
      button.setAttribute("aria-label", "Image " + (i + 1) + ": " + name);
      button.title = name;
      button.append(picture);
      button.addEventListener("click", () => show(i));
      byId("v-thumbs").append(button);
    });
  }

  function moveBlock(step) {
    byId("v-block").value = block() + step; // the slider keeps it within its ends
    show(current);
  }

  const keys = { ArrowLeft: () => turn(-1), ArrowRight: () => turn(1), ArrowUp: () => moveBlock(1), ArrowDown: () => moveBlock(-1) };
  byId("viewer").addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    if (["INPUT", "SELECT"].includes(event.target.tagName)) return; // where arrows have their own meaning
    event.preventDefault();
    keys[event.key]();
  });

  for (const field of filters) field.addEventListener("change", filter);
  for (const id of ["v-block", "v-strength"]) byId(id).addEventListener("input", () => show(current));
  for (const id of ["v-rule", "v-class", "v-outline"]) if (byId(id)) byId(id).addEventListener("change", () => show(current));
  byId("v-back").addEventListener("click", () => turn(-1));
  byId("v-next").addEventListener("click", () => turn(1));
  byId("v-reset").addEventListener("click", () => only({}));
  byId("v-return").addEventListener("click", (event) => {
    event.preventDefault();
    origin.focus({ preventScroll: true });
    origin.scrollIntoView({ block: "center" });
  });

  // Show the images of one pair of classes, or with {} all of them; `total` is how many test images are like that, and `from`
  // the button that led here, to which the reader can return.
  function only({ truth = "", predicted = "", total }, from) {
    byId("v-return").hidden = !from;
    origin = from;
    for (const field of filters) field.value = "";
    byId("v-true").value = truth;
    byId("v-predicted").value = predicted;
    filter();
    if (total === undefined) return;
    byId("v-count").textContent += " Of " + total + (total === 1 ? " test image" : " test images") + " that "
      + (total === 1 ? "is " : "are ") + classes[truth] + (predicted === "" ? "" : " and predicted as " + classes[predicted])
      + ", " + shown.length + (shown.length === 1 ? " is" : " are") + " on this page" + "; predictions.csv lists them all.";
    byId("v-stage").focus({ preventScroll: true });
    byId("viewer").scrollIntoView({ block: "start" });
  }

  const scale = byId("v-scale").getContext("2d"), bar = scale.createImageData(256, 1);
  for (let i = 0; i < 256; i++) bar.data.set([...colours.slice(3 * i, 3 * i + 3), 255], 4 * i);
  scale.putImageData(bar, 0, 0);
  thumbnails();
  byId("viewer").hidden = false;
  filter();
  return { only };
})();
