// Wires the page: the form makes an order, the stream fills the frame, the gallery and the browser remember.

import * as gallery from "./gallery.js";
import * as history from "./history.js";
import { watch } from "./ready.js";
import { curl, python } from "./snippet.js";
import { draw } from "./stream.js";
import * as times from "./times.js";

const by = (id) => document.getElementById(id);
let key = "";
let running = null;
let shown = null;
let source = null; // the file to start from
let model = "";
let offers = [];

function order() {
  const data = new FormData(by("form"));
  const given = (name) => (data.get(name) ?? "").trim();
  const made = { prompt: given("prompt"), size: given("size") || "auto" };
  if (offers.length > 1) made.model = model;
  if (Number(given("n")) > 1) made.n = Number(given("n"));
  if (given("output_format") !== "png") made.output_format = given("output_format");
  if (given("steps")) made.steps = Number(given("steps"));
  if (given("seed")) made.seed = Number(given("seed"));
  if (given("guidance")) made.guidance = Number(given("guidance"));
  if (given("negative")) made.negative_prompt = given("negative");
  if (source) made.strength = Number(given("strength"));
  return made;
}

async function submit() {
  if (running || !by("form").reportValidity()) return;
  const asked = order();
  running = new AbortController();
  begin(asked);
  try {
    for await (const said of draw(asked, source, key, running.signal)) react(said, asked);
  } catch (error) {
    await failed(error);
  } finally {
    running = null;
    busy(false);
  }
}

function begin(asked) {
  by("said").textContent = "";
  by("tools").hidden = true;
  by("times").hidden = true;
  phase("drawing");
  frame(asked.size);
  by("frame").scrollIntoView({ block: "nearest", behavior: "smooth" }); // on a phone it is below the form
  by("caption").textContent = "Waiting for a place.";
  busy(true);
}

function react(said, asked) {
  if (said.kind === "started") by("caption").textContent = "Drawing.";
  if (said.kind === "partial_image") {
    by("picture").src = `data:image/${said.output_format};base64,${said.b64_json}`;
    phase("preview");
    progress(said.step / said.steps);
    const which = asked.n ? `Picture ${said.image_index + 1} of ${asked.n}: preview` : "Preview";
    by("caption").textContent = `${which} at step ${said.step} of ${said.steps}.`;
  }
  if (said.kind === "completed") finish(said, asked);
}

function finish(said, asked) {
  const format = said.output_format;
  const blob = new Blob([bytes(said.b64_json)], { type: `image/${format}` });
  const picture = { blob, format, order: asked, seed: said.seed, size: said.size, timing: said.usage.halftime };
  history.keep(picture);
  show(remember(picture));
}

function remember(picture) {
  const whole = { ...picture, url: URL.createObjectURL(picture.blob) };
  gallery.add(whole, show);
  return whole;
}

function show(picture) {
  shown = picture;
  frame(picture.size);
  by("picture").src = picture.url;
  by("picture").alt = picture.order.prompt;
  phase("final");
  const [{ steps }] = picture.timing.pictures;
  by("caption").textContent = `${picture.size.replace("x", " × ")}, ${steps} ${steps === 1 ? "step" : "steps"}, seed ${picture.seed}`;
  Object.assign(by("save"), { href: picture.url, download: `halftime-${picture.seed}.${picture.format}` });
  by("tools").hidden = false;
  times.show(picture.timing);
}

function choose(file) {
  source = file ?? null;
  by("chosen").hidden = by("strength-row").hidden = !source;
  by("file-name").textContent = source ? "Choose another" : "Choose a file";
  if (by("source").src) URL.revokeObjectURL(by("source").src);
  if (source) by("source").src = URL.createObjectURL(source);
  else by("file").value = "";
  write();
}

function write() {
  by("strength-text").textContent = `${Math.round(100 * by("strength").value)} %`;
  const words = [order(), source?.name, location.origin, key !== "", model];
  by("snippet").textContent = by("code").querySelector("input[value=curl]").checked ? curl(...words) : python(...words);
}

async function copy() {
  await navigator.clipboard?.writeText(by("snippet").textContent).catch(() => {});
  by("copy").textContent = "Copied";
  setTimeout(() => { by("copy").textContent = "Copy"; }, 1500);
}

async function failed(error) {
  phase("empty");
  by("caption").textContent = error.name === "AbortError" ? "Stopped." : "Not drawn.";
  if (error.name === "AbortError") return;
  if (error.status === 401 && (await askKey())) return void setTimeout(submit);
  const again = error.wait ? ` Try again in ${error.wait} s.` : "";
  by("said").textContent = (error instanceof TypeError ? "The server cannot be reached." : error.message) + again;
}

function askKey() {
  const dialog = by("ask-key");
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => {
    key = dialog.returnValue === "use" ? by("key").value.trim() : key;
    done(dialog.returnValue === "use" && key !== "");
  }, { once: true }));
}

function busy(yes) {
  by("draw").disabled = yes;
  by("stop").hidden = !yes;
  by("progress").hidden = !yes;
  if (yes) progress(0);
}

function progress(share) {
  by("progress").firstElementChild.style.width = `${100 * share}%`;
  by("progress").setAttribute("aria-valuemax", 100);
  by("progress").setAttribute("aria-valuenow", Math.round(100 * share));
}

const phase = (name) => { by("frame").dataset.phase = name; };

function frame(size) {
  const [width, height] = size.split("x").map(Number);
  if (height) by("frame").style.setProperty("--aspect", `${width} / ${height}`);
}

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

function chips(id, name, choices, chosen) {
  by(id).querySelector(".row").replaceChildren(...choices.map(([value, title]) => {
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name, value, checked: value === chosen });
    label.append(input, Object.assign(document.createElement("span"), { textContent: title }));
    return label;
  }));
}

function offered(all) {
  offers = all;
  by("models").hidden = all.length < 2;
  const chosen = all.find((each) => each.model === model) ?? all[0];
  chips("models", "model", all.map((each) => [each.model, each.model]), chosen.model);
  offer(chosen);
}

function offer({ model: name, sizes, steps, default_steps: usual, edits }) {
  const kept = order();
  model = name;
  by("start").hidden = !edits;
  const size = sizes.includes(kept.size) ? kept.size : sizes[0];
  chips("sizes", "size", sizes.map((each) => [each, each.replace("x", " × ")]), size);
  chips("steps", "steps", steps.map((each) => [String(each), String(each)]), String(steps.includes(kept.steps) ? kept.steps : usual));
  if (!shown) frame(size);
  write();
}

by("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
by("form").addEventListener("change", (event) => { if (event.target.name === "size" && !shown && !running) frame(event.target.value); });
by("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });
by("stop").addEventListener("click", () => running?.abort());
by("dice").addEventListener("click", () => { by("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]); write(); });
by("models").addEventListener("change", (event) => offer(offers.find((each) => each.model === event.target.value)));
by("form").addEventListener("input", write);
by("code").addEventListener("toggle", write);
by("copy").addEventListener("click", copy);
by("file").addEventListener("change", () => choose(by("file").files[0]));
by("unchoose").addEventListener("click", () => choose(null));
by("forget").addEventListener("click", async () => { await history.forget(); gallery.clear(); });
by("again").addEventListener("click", () => {
  by("prompt").value = shown.order.prompt;
  by("negative").value = shown.order.negative_prompt ?? "";
  by("guidance").value = shown.order.guidance ?? "";
  by("seed").value = String(shown.seed);
  for (const [name, value] of [["size", shown.size], ["steps", String(shown.timing.pictures[0].steps)]]) {
    const chip = document.querySelector(`input[name=${name}][value="${value}"]`);
    if (chip) chip.checked = true;
  }
  by("format").value = shown.format;
  write();
  by("prompt").focus();
});
if (/Mac|iPhone|iPad/.test(navigator.platform)) document.querySelector(".hint").textContent = "⌘ ↵";
if (matchMedia("(max-width: 860px)").matches) by("more").open = false;
for (const picture of await history.kept()) show(remember(picture));
watch(offered);
