// The page: photos come in, the worker looks at one after the other, and each has a row with its answers.

const { attributes, columns, endings, exif, language, samples, share, size } = JSON.parse(document.getElementById("data").textContent);
const LITTLE = 0.01;  // classes below are folded away
const SHOWN = 10;  // the likeliest, of an attribute with more than two classes more
const VAGUE = /^(yes|no|none|other|unknown|[\d.,]+)$/i;  // says nothing without its attribute
const READY = "Ready: choose photos, or take a sample.";
const UNREADABLE = "could not be read as a photo. Please try a JPEG, PNG or WebP file, or a smaller one.";

const find = selector => document.querySelector(selector);
const count = (number, what, many = `${what}s`) => `${number} ${number === 1 ? what : many}`;
const add = (parent, tag, properties = {}) => {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
};

// Shown, and read aloud by a screen reader, to which `aloud` says more.
function say(text, { bad = false, aloud = "" } = {}) {
  find("#status").textContent = text;
  find("#status").classList.toggle("bad", bad);
  if (aloud) add(find("#status"), "span", { className: "unseen", textContent: ` ${aloud}` });
}

if (attributes[0].sure) {  // [temperature, the least probability of a sure answer or null], as of all attributes, or of none
  const text = attributes.some(one => one.sure[1] !== null)
    ? `Sure answers: at least ${100 * share} % of such were right on photos that the network had not learned from.`
    : `No answer is sure: too few photos could show that ${100 * share} % of such are right.`;
  Object.assign(find("#legend"), { textContent: `${text} Unsure ones are grey; in the CSV their cells are empty.`, hidden: false });
}

// --- the network, in a worker: one question at a time ---

const worker = new Worker(`worker.js${new URL(import.meta.url).search}`, { type: "module" });
const ask = message => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data));
  worker.onerror = reject;
  worker.postMessage(message);
});
const ready = ask({ exif, size });
ready.then(() => { if (!photos.length) say(READY); }, failed);

// --- photos: { name, path, blob(), sample, alone, others; row, waiting, probabilities } ---

let photos = [], running = false, stopped = false;

// Photos to look at come above those that are there, but for a sample, which makes room.
function take(batch) {
  photos.filter(one => one.sample).forEach(remove);
  for (const details of document.querySelectorAll(".about > details")) details.open = false;
  for (const photo of batch) Object.assign(photo, { row: newRow(photo), waiting: true, alone: batch.length === 1 });
  find("#photos").prepend(...batch.map(one => one.row));
  photos = [...batch, ...photos];
  stopped = false;
  work();
}

function remove(photo) {
  photos = photos.filter(one => one !== photo);
  URL.revokeObjectURL(photo.row.querySelector("img").src);
  photo.row.remove();
}

async function work() {
  showAll();
  if (running) return;
  running = true;
  const begin = performance.now();
  let seen = 0, last;
  try {
    await ready.catch(() => { stopped = true; });
    for (let next; !stopped && (next = photos.find(one => one.waiting)); seen++) {
      if (!seen) say(next.alone ? "Looking …" : `Looking at ${count(photos.filter(one => one.waiting).length, "photo")} …`);
      last = await look(next);
      showAll();
    }
    if (seen && photos.length) sayEnd(seen, last, (performance.now() - begin) / 1000);
  } catch (error) {
    console.error(error);
    stopped = true;
    say("The network did not run on this device.", { bad: true });
  }
  running = false;
  showAll();
}

// Asks for a photo's answers, and shows them in its row; returns what is to be said of it.
async function look(photo) {
  const [line, button, details] = ["p", "button", "details"].map(one => photo.row.querySelector(one));
  line.textContent = "looking …";
  const blob = await photo.blob().catch(() => null);  // a file may be gone by now
  const answer = blob ? await ask({ blob }) : { unreadable: true };
  photo.waiting = false;
  line.classList.remove("soft");
  line.textContent = "";
  if (answer.unreadable) {
    line.textContent = `It ${UNREADABLE}`;
    line.classList.add("bad");
    return [`${photo.name} ${UNREADABLE}`, { bad: true }];
  }
  photo.probabilities = answer.probabilities.map(softened);
  for (const [i, textContent] of answersOf(photo).entries()) {
    line.append(i ? "\u00a0· " : "");  // no line begins with a dot
    add(line, "span", { className: isSure(photo, i) ? "" : "unsure", textContent });
  }
  Object.assign(photo.row.querySelector("img"), { src: URL.createObjectURL(answer.shown), hidden: false });
  button.hidden = details.hidden = false;
  details.open = photo.alone;
  const [reading, thinking] = [answer.reading, answer.thinking].map(Math.round);
  const times = `${photo.name}: read and scaled in ${reading} ms, classified in ${thinking} ms.`;
  return [times, { aloud: answersOf(photo).join(", ") }];
}

function sayEnd(seen, last, seconds) {
  const unread = photos.filter(one => !one.waiting && !one.probabilities).length, left = photos.filter(one => one.waiting).length;
  if (seen === 1 && !left) return say(...last);
  const parts = [`${left ? "Stopped. " : ""}${count(seen, "photo")} seen in ${seconds.toFixed(1)} s`];
  if (unread) parts.push(`${unread} could not be read`);
  if (photos[0]?.others) parts.push(`${count(photos[0].others, "other file")} left out`);
  say(`${parts.join(", ")}.`, { bad: unread === photos.length });
}

// What stands above several photos. A button that goes takes no focus with it.
function showAll() {
  const left = photos.filter(one => one.waiting).length, had = document.activeElement;
  find(".several").hidden = photos.length < 2;
  find("#count").textContent = left ? `${photos.length - left} of ${count(photos.length, "photo")}` : count(photos.length, "photo");
  Object.assign(find("progress"), { max: photos.length || 1, value: photos.length - left, hidden: !left });
  Object.assign(find("#stop"), { hidden: !left, textContent: stopped ? "Go on" : "Stop" });
  find("#csv").hidden = !photos.some(one => one.probabilities);
  if (had === find("#stop") && !left) find("#csv").focus();
  for (const [i, button] of find(".samples").querySelectorAll("button").entries())
    button.setAttribute("aria-pressed", photos.some(one => one.sample === i + 1));
}

// --- answers ---

const bestOf = probabilities => probabilities.indexOf(Math.max(...probabilities));
const names = attributes.flatMap(one => one.classes.map(([own]) => own));
const twice = new Set(names.filter((name, i) => names.indexOf(name) !== i));

// Probabilities of the i-th attribute, made honest by its temperature (utils/evaluation/confidence.py: softened).
function softened(values, i) {
  const { sure } = attributes[i];
  if (!sure) return values;
  const logits = Array.from(values, value => Math.log(Math.max(value, 1e-30)) / sure[0]), most = Math.max(...logits);
  const odds = logits.map(one => Math.exp(one - most)), sum = odds.reduce((a, b) => a + b);
  return odds.map(one => one / sum);
}

// Whether the answer is sure; without a threshold none is.
const isSure = ({ probabilities }, i) => Math.max(...probabilities[i]) >= ((attributes[i].sure ?? [1, 0])[1] ?? Infinity);

// The likeliest class of each attribute, as a person understands it without the attribute's name.
function answersOf(photo) {
  return attributes.map(({ names: [title], classes }, i) => {
    const [name] = classes[bestOf(photo.probabilities[i])];
    const answer = VAGUE.test(name) || twice.has(name) ? `${title}: ${name}` : name;
    return isSure(photo, i) ? answer : `unsure: ${answer}?`;
  });
}

function newRow(photo) {
  const row = find("#photo").content.firstElementChild.cloneNode(true), details = row.querySelector("details");
  row.querySelector("h2").textContent = photo.name;
  row.querySelector("h2").title = photo.path;
  row.querySelector("summary span").textContent = ` of ${photo.name}`;
  const button = row.querySelector("button");
  button.ariaLabel = `Copy the answers of ${photo.name}`;
  button.onclick = () => copy(answersOf(photo).join(" · "), button);
  details.ontoggle = () => {
    row.classList.toggle("open", details.open);
    if (details.open && !details.querySelector("section")) fill(details.lastElementChild, photo);
  };
  return row;
}

// A section for each attribute: its classes and their probabilities, the little ones folded away.
function fill(sections, photo) {
  attributes.forEach(({ names, classes }, i) => {
    const values = photo.probabilities[i], best = bestOf(values), order = [...classes.keys()];
    const many = classes.length > SHOWN + 2;
    if (many) order.sort((a, b) => values[b] - values[a]);
    const likely = order.filter((one, place) => one === best || (values[one] >= LITTLE && !(many && place >= SHOWN)));
    const rest = order.filter(one => !likely.includes(one));
    const section = add(sections, "section", { className: isSure(photo, i) ? "" : "unsure" });
    section.dataset.best = best;
    addNames(add(section, "h3"), names);
    if (!isSure(photo, i)) add(section.firstChild, "span", { className: "soft", textContent: " – unsure" });
    addClasses(section, likely, classes, values, best);
    if (!rest.length) return;
    const details = add(section, "details"), little = rest.every(one => values[one] < LITTLE);
    const what = little ? ["class below 1 %", "classes below 1 %"] : ["more class", "more classes"];
    add(details, "summary", { textContent: count(rest.length, ...what) });
    addClasses(details, rest, classes, values, best);
  });
}

function addClasses(parent, numbers, classes, values, best) {
  const list = add(parent, "ul", { role: "list" });
  for (const number of numbers) {
    const row = add(list, "li", { className: number === best ? "class best" : "class" }), percent = `${(100 * values[number]).toFixed(1)} %`;
    row.dataset.number = number;
    addNames(add(row, "span"), classes[number]);
    add(row, "span", { className: "number", textContent: percent });
    add(add(row, "div", { className: "track" }), "div").style.width = `${100 * values[number]}%`;
  }
}

function addNames(parent, [own, other]) {
  parent.append(own);
  if (!other || other === own) return;
  parent.append(" ");
  add(parent, "span", { className: "other", lang: language, textContent: other });
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // only https and this machine have a clipboard
    getSelection().selectAllChildren(button.previousElementSibling);
    if (!document.execCommand("copy")) return say("The answers are selected: copy them with Ctrl+C.");
  }
  say(`Copied: ${text}`);
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// --- the table, as predict.py writes it (utils/evaluation/predictions.py) ---

const isNumber = text => /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(text) && Number.isFinite(Number(text));
const tableText = text => (/^[=+\-@\t\r\n＝＋－＠]/.test(text) && !isNumber(text) ? `'${text}` : text);  // no formula
const quoted = text => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

// A row a photo that could be read: its name, or path where others have the same name, classes, and their probabilities.
function table() {
  const read = photos.filter(one => one.probabilities), rows = [columns], times = new Map();
  for (const { name } of read) times.set(name, (times.get(name) ?? 0) + 1);
  for (const photo of read) {
    const { name, path, probabilities } = photo, best = probabilities.map(bestOf);
    const classes = attributes.map((one, i) => (isSure(photo, i) ? tableText(one.classes[best[i]][0]) : ""));
    const confidences = probabilities.map((values, i) => values[best[i]].toFixed(4));
    rows.push([tableText(times.get(name) > 1 ? path : name), ...classes, ...confidences].slice(0, columns.length));
  }
  return rows.map(row => `${row.map(quoted).join(",")}\r\n`).join("");
}

find("#csv").onclick = () => {
  const href = URL.createObjectURL(new Blob(["\ufeff", table()], { type: "text/csv" }));  // the mark is for Excel
  add(document.body, "a", { href, download: "predictions.csv", hidden: true }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
};
find("#stop").onclick = () => {
  stopped = !stopped;
  showAll();
  if (!stopped) work();
};
find("#clear").onclick = () => {
  photos.forEach(remove);
  showAll();
  say(READY);
  find("#file").focus();
};

// --- where photos come from ---

const inOrder = new Intl.Collator(undefined, { numeric: true });

// Files, { path, blob() }. A folder's are those that predict.py takes, and are named from the folder on.
function arrive(files) {
  const isPhoto = ({ path }) => !/(^|\/)(\.|__MACOSX\/)/.test(path) && endings.some(one => path.toLowerCase().endsWith(one));
  const taken = files.filter(file => !file.path.includes("/") || isPhoto(file));
  if (!taken.length) return files.length && say("There is no photo in this folder.", { bad: true });
  taken.sort((a, b) => inOrder.compare(a.path, b.path));
  for (const one of taken) one.name = one.path.slice(one.path.indexOf("/") + 1);
  taken[0].others = files.length - taken.length;
  take(taken);
}

// The files of what was dropped, a file or a folder with its sub-folders.
async function walk(entry, found) {
  const path = entry.fullPath.slice(1);
  if (entry.isFile) return found.push({ path, blob: () => new Promise((resolve, reject) => entry.file(resolve, reject)) });
  const reader = entry.createReader();
  for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;)
    for (const one of some) await walk(one, found);
}

const chosen = file => ({ path: file.webkitRelativePath || file.name, blob: async () => file });
for (const input of [find("#file"), find("#folder")]) {
  input.onchange = () => arrive([...input.files].map(chosen));
  input.onclick = () => { input.value = ""; };  // the same files may be chosen again
}
addEventListener("dragover", event => { event.preventDefault(); find(".drop").classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) find(".drop").classList.remove("over"); });
addEventListener("drop", async event => {
  event.preventDefault();
  find(".drop").classList.remove("over");
  const items = [...event.dataTransfer.items].filter(one => one.kind === "file"), found = [];
  const dropped = items.map(one => one.webkitGetAsEntry() ?? chosen(one.getAsFile()));  // gone after the first await
  try {
    for (const one of dropped) await (one.blob ? found.push(one) : walk(one, found));
    arrive(found);
  } catch (error) {
    say(`What was dropped could not be read (${error.message}).`, { bad: true });
  }
});
for (const [i, file] of samples.entries()) {
  const button = add(find(".samples"), "button", { type: "button", ariaPressed: "false" }), name = `Sample ${i + 1}`;
  add(button, "img", { src: file, alt: name.toLowerCase() });
  button.onclick = () => take([{ name, path: name, blob: async () => (await fetch(file)).blob(), sample: i + 1 }]);
}
