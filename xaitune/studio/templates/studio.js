
"use strict";
const PAGE = 60; // thumbnails at a time
const POLL = 700; // milliseconds
const ACTIONS = { keep: "the label is right", relabel: "has another class", drop: "left out" };
const token = document.querySelector("meta[name=studio-token]").content;
const limit = Number(document.querySelector("meta[name=upload-limit]").content);
const $ = (id) => document.getElementById(id);
const state = { runs: [], images: [], shown: PAGE, image: null, marks: [], asked: 0, jobs: [], polling: false };

// ---- small helpers

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (/[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]/.test(properties.textContent || "")) element.lang = "ko";
  element.append(...children);
  return element;
}

function fill(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => make("option", { value, textContent: text })));
  if (values.some(([value]) => value === chosen)) select.value = chosen;
}

function complain(text) {
  $("message").textContent = text;
  $("message").hidden = !text;
}

async function ask(address, body, raw = false) {
  const options = body === undefined ? {} : { method: "POST", headers: { "x-studio-token": token }, body: raw ? body : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The studio does not answer. Is it still running in its terminal?");
  }
  const found = await answer.json().catch(() => ({ error: `The studio failed (status ${answer.status}).` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// An event's handler whose error is shown, not lost.
function shown(work) {
  return async (...event) => {
    try {
      complain("");
      await work(...event);
    } catch (error) {
      complain(error.message);
    }
  };
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 || share > 0.995 ? 1 : 0)} %`;
const named = (name) => state.runs.find((run) => run.name === name);
const run = () => named($("run").value);
const chosenRuns = () => [$("run").value, $("other").value].filter(Boolean);

// ---- runs

async function loadRuns() {
  const found = await ask("api/runs");
  state.runs = found.runs;
  complain(found.problems.join(" "));
  $("no-runs").hidden = state.runs.length > 0;
  const names = state.runs.map((each) => [each.name, `${each.name} (${each.score})`]);
  fill($("run"), names, $("run").value);
  fill($("other"), [["", "(one run only)"], ...names], $("other").value);
}

async function useRun() {
  const chosen = run();
  for (const id of ["train", "advise"]) $(id).disabled = false;
  if (!chosen) return;
  fill($("class"), [["", "the predicted one"], ...chosen.classes.map((name) => [name, name])], $("class").value);
  fill($("filter-class"), [["", "all"], ...chosen.classes.map((name) => [name, name])], $("filter-class").value);
  $("depth-label").hidden = chosen.depth === null;
  if (chosen.depth !== null) $("depth").value = chosen.depth;
  $("optimizer").value = chosen.optimizer;
  $("epochs").value = chosen.epochs;
  fitControls();
  state.images = (await ask(`api/images?run=${encodeURIComponent(chosen.name)}`)).images;
  state.shown = PAGE;
  await loadMarks();
}

function fitControls() {
  const able = chosenRuns().map(named);
  for (const option of $("method").options) option.disabled = !able.some((each) => each.methods.includes(option.value));
  if ($("method").selectedOptions[0].disabled) $("method").value = "gradcam";
  const lime = $("method").value === "lime";
  $("rule").disabled = $("method").value !== "gradcam";
  $("blocks").hidden = lime;
  $("explain").hidden = !lime;
  $("explain").disabled = !state.image;
  $("check").hidden = lime;
}

// ---- the images of a run

const markOf = (file) => state.marks.find((mark) => mark.file === file && (!mark.images || mark.images === run().images));

function drawGallery() {
  const wanted = $("filter-class").value;
  const split = $("filter-split").value;
  const right = { right: true, wrong: false }[$("filter-answer").value];
  const found = state.images.filter((each) => (!split || each.split === split) && (!wanted || each.true === wanted) && (right === undefined || each.right === right));
  const focused = $("gallery").contains(document.activeElement);
  $("count").textContent = `${found.length} of ${state.images.length} images`;
  $("gallery").replaceChildren(...found.slice(0, state.shown).map(thumbnailButton));
  $("more").hidden = found.length <= state.shown;
  if (focused) $("gallery").querySelector("[aria-pressed=true]")?.focus();
}

function thumbnailButton(each) {
  const mark = markOf(each.file);
  const said = each.right ? `✓ ${each.predicted}` : `✗ ${each.predicted}`;
  const text = `${each.file}, true class ${each.true}, predicted ${each.predicted}${mark ? `, marked: ${ACTIONS[mark.action] || mark.action}` : ""}`;
  const source = `thumbnail?run=${encodeURIComponent($("run").value)}&file=${encodeURIComponent(each.file)}`;
  const button = make("button", { type: "button", title: text },
    make("img", { src: source, alt: "", loading: "lazy" }),
    make("span", { textContent: each.true + (mark ? " ⚑" : "") }),
    make("span", { textContent: said, className: each.right ? "right" : "wrong" }));
  button.setAttribute("aria-label", text);
  button.setAttribute("aria-pressed", String(state.image?.file === each.file));
  button.addEventListener("click", shown(() => choose({ source: $("run").value, images: run().images, ...each })));
  return button;
}

async function choose(image) {
  state.image = image;
  drawGallery();
  drawMarking();
  fitControls();
  await explain();
}

async function upload(file) {
  if (file.size > limit) throw new Error(`${file.name} is larger than ${limit / 1e6} MB, which is the limit. Scale it down or cut it into parts.`);
  const kept = await ask(`api/uploads?name=${encodeURIComponent(file.name)}`, file, true);
  await choose({ upload: kept.upload, name: kept.name });
}

// ---- explanations

function question(name) {
  const image = state.image.upload ? { upload: state.image.upload } : { source: state.image.source, file: state.image.file };
  return { run: name, method: $("method").value, rule: $("rule").value, class: $("class").value, ...image };
}

async function explain(pressed = false, checking = false) {
  fitControls();
  $("check").disabled = true;
  if (!state.image || !chosenRuns().length) return;
  const asked = ++state.asked;
  await stopWork();
  const lime = $("method").value === "lime";
  if (lime && !pressed) {
    note("LIME asks the model about many masked copies of the image. It takes from seconds to minutes: press Explain.");
    busy(false);
    return;
  }
  busy(true);
  note("Explaining … the first image of a run takes a little longer, since its model is loaded.");
  const boxes = chosenRuns().map((name) => make("article", { className: "result" }, make("h3", { textContent: name }),
    make("p", { className: "soft small", textContent: `${named(name).about}; test ${named(name).score}` })));
  const explained = new Set();
  let begun = false, stopped = false;
  for (const [i, name] of chosenRuns().entries()) {
    let drawn;
    try {
      const found = lime ? await waitFor("api/lime", name, asked, "of at most", "samples", "LIME was stopped.")
        : checking ? await waitFor("api/check", name, asked, "of about", "forward passes", "The checks were stopped.")
        : await ask("api/explain", question(name));
      explained.add(found.explained);
      drawn = drawResult(found);
    } catch (error) {
      drawn = make("p", { className: "message", textContent: error.message });
      stopped = error.stopped;
    }
    if (asked !== state.asked) return;
    boxes[i].append(drawn);
    if (!begun) $("results").replaceChildren(...boxes);
    begun = true;
    showBlocks();
    if (stopped) break; // the second run too
  }
  const differ = "The runs answer differently, so their maps are for different classes. Choose a class to compare the maps for it. ";
  const doubted = $("results").querySelector(".doubt") ? "⚠ marks maps that should not be relied on." : "";
  note((explained.size > 1 ? differ : "") + doubted);
  busy(false);
  $("check").disabled = checking;
}

const busy = (now) => $("results").setAttribute("aria-busy", String(now));

function note(text, ...more) {
  $("status").replaceChildren(text, ...more);
}

function drawResult(found) {
  const right = found.predicted === state.image.true;
  const truth = state.image.upload ? [] : [right ? ", which is right" : ", but the true class is ", right ? "" : make("strong", { textContent: state.image.true })];
  const picture = { title: "Image", note: `${found.size[0]} × ${found.size[1]} pixels`, picture: found.image };
  const said = make("p", { className: "said" }, "Predicted: ", make("strong", { textContent: found.predicted }), ...truth,
    `. The maps are for ${found.explained}.`);
  if (truth.length) said.prepend(make("span", { className: right ? "right" : "wrong", textContent: right ? "✓ " : "✗ " }));
  const panels = [picture, ...found.panels].map((panel) => drawPanel(panel, found));
  const head = make("span", { className: "head", textContent: found.of[0].toUpperCase() + found.of.slice(1) });
  const bars = make("div", { className: "bars" }, head, ...found.probabilities.flatMap(([name, value]) => bar(name, value, found)));
  return make("div", {}, said, make("div", { className: "panels" }, ...panels), bars);
}

function drawPanel(panel, found) {
  const alt = panel.title === "Image" ? found.name : `${panel.title} of ${found.run}: ${found.name} for the class ${found.explained}`;
  const caption = make("figcaption", {}, panel.title, make("span", { textContent: panel.note }));
  if (panel.block) caption.title = "Each map is drawn up to its own peak, the largest value before scaling. Compare peaks within one run and class.";
  if (panel.doubts?.length) caption.append(make("span", { className: "doubt", title: "Do not rely on this map", textContent: `⚠ ${panel.doubts.join("; ")}` }));
  else if (panel.checked) caption.append(make("span", { className: "passed", textContent: "✓ no check failed" }));
  for (const { name, colour } of panel.legend || []) {
    const swatch = make("i", { className: "swatch" });
    swatch.style.background = colour;
    caption.append(make("span", {}, swatch, name));
  }
  const figure = make("figure", {}, make("img", { src: panel.picture, alt }), caption);
  if (panel.block) figure.dataset.block = panel.block;
  return figure;
}

function bar(name, value, found) {
  const chosen = name === found.explained ? "chosen" : "";
  const meter = make("meter", { min: 0, max: 1, value });
  meter.setAttribute("aria-label", `${found.of} of ${name}`);
  return [make("span", { textContent: name, className: chosen }), meter, make("span", { textContent: percent(value), title: found.of })];
}

function showBlocks() {
  const wanted = new Set([...$("blocks").querySelectorAll("input:checked")].map((box) => box.value));
  for (const figure of document.querySelectorAll("figure[data-block]")) {
    figure.hidden = !wanted.has(figure.dataset.block) && Number(figure.dataset.block) <= 5;
  }
}

// Work in the background: its progress, a button that stops it, and its result.
async function waitFor(address, name, asked, of, unit, stopped) {
  let job = await ask(address, question(name));
  state.work = job.number;
  const moved = make("progress", { max: 1 });
  moved.setAttribute("aria-label", job.title);
  const stop = make("button", { type: "button", textContent: "Stop" });
  stop.addEventListener("click", shown(() => {
    Object.assign(stop, { disabled: true, textContent: "Stopping …" });
    return ask(`api/jobs/${job.number}/stop`, {});
  }));
  const text = make("span");
  note("", moved, text, stop);
  while (job.state === "running" && asked === state.asked) {
    if (job.total) Object.assign(moved, { value: job.done / job.total });
    text.textContent = job.total ? `${name}: ${job.done} ${of} ${job.total} ${unit}` : `${name}: waiting for the model`;
    await new Promise((resolve) => setTimeout(resolve, POLL));
    job = await ask(`api/jobs/${job.number}`);
  }
  state.work = null;
  if (job.state === "stopped") throw Object.assign(new Error(stopped), { stopped: true });
  if (job.state !== "finished") throw new Error(job.text);
  return job.result;
}

async function stopWork() {
  if (state.work) await ask(`api/jobs/${state.work}/stop`, {}).catch(() => {});
  state.work = null;
}

// ---- marks

async function loadMarks() {
  takeMarks(await ask(`api/marks?run=${encodeURIComponent($("run").value)}`));
}

function takeMarks(found) {
  state.marks = found.marks;
  $("marks-path").textContent = found.marks.length ? `Kept in ${found.path}` : "None yet. Choose an image of the run above and say whether its label is right.";
  const rows = found.marks.map((mark) => make("tr", {}, ...[mark.file, ACTIONS[mark.action] || mark.action, mark.new_class].map((text) => make("td", { textContent: text }))));
  const heads = make("tr", {}, ...["File", "What you said", "New class"].map((text) => make("th", { textContent: text, scope: "col" })));
  const table = make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, heads), make("tbody", {}, ...rows)));
  $("marks").replaceChildren(...(rows.length ? [table] : []));
  $("use-marks").hidden = !found.command || !rows.length;
  $("with-marks").disabled = !rows.length;
  if (!rows.length) $("with-marks").checked = false;
  $("marks-command").textContent = found.command;
  $("marks-warning").textContent = found.warning;
  $("marks-warning").hidden = !found.warning;
  drawGallery();
  drawMarking();
}

function drawMarking() {
  const image = state.image;
  $("marking").hidden = !image || !image.file;
  if ($("marking").hidden) return;
  const segments = named(image.source).segments;
  $("marking-image").textContent = `${image.file} is labelled ${image.true}.`;
  for (const id of ["new-class-label", "relabel"]) $(id).hidden = segments;
  const others = named(image.source).classes.filter((name) => name !== image.true).map((name) => [name, name]);
  fill($("new-class"), others, image.right ? $("new-class").value : image.predicted);
  const mark = markOf(image.file);
  $("undo").hidden = !mark;
  const said = mark ? `Marked: ${ACTIONS[mark.action] || mark.action}${mark.new_class ? `, ${mark.new_class}` : ""}.` : "";
  $("marked").textContent = said;
}

async function mark(action) {
  const { source, file } = state.image;
  takeMarks(await ask("api/marks", { run: source, file, action, new_class: $("new-class").value }));
}

// ---- trainings and advice

async function startJob(command) {
  const asked = { command, run: $("run").value, label_fixes: $("with-marks").checked };
  if (command === "train" && run()) {
    Object.assign(asked, { optimizer: $("optimizer").value, epochs: Number($("epochs").value) });
    if (run().depth !== null) asked.freeze_through = Number($("depth").value);
  }
  await ask("api/jobs", asked);
  await followJobs();
}

async function followJobs() {
  if (state.polling) return;
  state.polling = true;
  try {
    let running = true;
    while (running) {
      const before = state.jobs.filter((job) => job.state === "running").length;
      state.jobs = (await ask("api/jobs")).jobs;
      drawJobs();
      const count = state.jobs.filter((job) => job.state === "running").length;
      running = count > 0;
      if (count < before) await loadRuns();
      if (running) await new Promise((resolve) => setTimeout(resolve, 2 * POLL));
    }
  } finally {
    state.polling = false;
  }
}

function drawJobs() {
  $("jobs").replaceChildren(...state.jobs.map((job) => {
    const running = job.state === "running";
    const line = make("p", {}, make("strong", { textContent: job.title }), make("span", { textContent: job.text ? `${job.state}. ${job.text}` : job.state }));
    if (running) {
      const moved = make("progress", job.total ? { max: job.total, value: job.done } : {});
      moved.setAttribute("aria-label", job.title);
      const stop = make("button", { type: "button", textContent: "Stop" });
      stop.addEventListener("click", shown(() => ask(`api/jobs/${job.number}/stop`, {})));
      line.append(moved, stop);
    }
    const output = make("pre", { textContent: job.lines.join("\n"), tabIndex: 0 });
    requestAnimationFrame(() => { output.scrollTop = output.scrollHeight; });
    return make("article", { className: "job" }, line, output);
  }));
}

// ---- what the user does

$("run").addEventListener("change", shown(async () => { await useRun(); await explain(); }));
$("other").addEventListener("change", shown(() => explain()));
for (const id of ["method", "rule", "class"]) $(id).addEventListener("change", shown(() => explain()));
$("explain").addEventListener("click", shown(() => explain(true)));
$("check").addEventListener("click", shown(() => explain(false, true)));
$("blocks").addEventListener("change", showBlocks);
for (const id of ["filter-split", "filter-class", "filter-answer"]) {
  $(id).addEventListener("change", () => { state.shown = PAGE; drawGallery(); });
}
$("gallery").addEventListener("keydown", (event) => {
  const focused = document.activeElement;
  const next = { ArrowRight: focused.nextElementSibling, ArrowLeft: focused.previousElementSibling }[event.key];
  if (next) next.focus();
});
$("more").addEventListener("click", () => { state.shown += PAGE; drawGallery(); });
$("pick").addEventListener("change", shown(async () => {
  const [file] = $("pick").files;
  $("pick").value = "";
  if (file) await upload(file);
}));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // a file that misses the field must not replace the page
    $("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", shown(async (event) => {
  const [file] = event.dataTransfer.files;
  if (file) await upload(file);
}));
for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", shown(() => mark(button.dataset.action)));
}
$("copy").addEventListener("click", shown(async () => {
  await navigator.clipboard.writeText($("marks-command").textContent);
  $("copy").textContent = "Copied";
}));
$("train").addEventListener("click", shown(() => startJob("train")));
$("advise").addEventListener("click", shown(() => startJob("advise")));
shown(async () => {
  await loadRuns();
  await useRun();
  await followJobs();
})();
