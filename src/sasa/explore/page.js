// The explorer. It reads what the page holds, draws one window of attention, and follows pointer, touch and keys.
//
// N heads, K the window's side, H x W the layer's map. The weights of one layer for one image are one deflated chunk:
// scales, uint16 (N, H, W) in 1/65535, then windows, uint8 (N, H, W, K, K) in 1/255 of the scale.

const facts = JSON.parse(document.getElementById("facts").textContent);
const at = (id) => document.getElementById(id);
const MEAN = -1; // in place of a head: the mean of all
const HEAT = 0.9; // opacity of the largest weight

// What is chosen. The pixel is kept as fractions of the image's height and width, so that it stays where it is when
// another layer is chosen, whose map has another size.
const state = { image: 0, layer: 0, head: MEAN, y: 0.5, x: 0.5, pinned: false };
let weights = null; // of the chosen image and layer
let seen = null; // what is drawn: see `look`
let marked = -1; // the detector's box under the pointer in the list of answers

// ---------------------------------------------------------------------------------------------------------- weights

const decoded = new Map();

/** The weights of a layer for an image, decoded when they are first wanted: {scales, windows, heads, kernel, ...}. */
function weightsOf(image, layer) {
  const id = `weights-${image}-${layer}`;
  const size = facts.images[image].maps[layer];
  if (!decoded.has(id)) decoded.set(id, decode(at(id).textContent, size, facts.layers[layer]));
  return decoded.get(id);
}

async function decode(text, [height, width], { heads, kernel }) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let n = 0; n < bytes.length; n++) bytes[n] = letters.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const count = heads * height * width;
  const view = new DataView(buffer, 0, 2 * count);
  const scales = Float64Array.from({ length: count }, (_, n) => view.getUint16(2 * n, true) / 65535);
  return { scales, windows: new Uint8Array(buffer, 2 * count), heads, kernel, height, width };
}

/** The window of one pixel, K * K weights row by row; `head` may be MEAN. */
function windowOf({ scales, windows, heads, kernel, height, width }, head, row, column) {
  const size = kernel * kernel;
  const sum = new Float64Array(size);
  const chosen = head === MEAN ? [...Array(heads).keys()] : [head];
  for (const n of chosen) {
    const place = (n * height + row) * width + column;
    for (let p = 0; p < size; p++) sum[p] += (windows[place * size + p] / 255) * scales[place] / chosen.length;
  }
  return sum;
}

/** Everything about the chosen pixel: its place on the map, its window, and which parts of that lie on the image. */
function look() {
  const [down, across] = facts.images[state.image].cover;
  const { kernel, height, width } = weights;
  const rows = Math.min(height, Math.ceil(height * down)); // the rest of the map is padding
  const columns = Math.min(width, Math.ceil(width * across));
  const row = Math.min(rows - 1, Math.floor(state.y * down * height));
  const column = Math.min(columns - 1, Math.floor(state.x * across * width));
  const window = windowOf(weights, state.head, row, column);
  const half = kernel >> 1;
  const inside = Array.from(window, (_, p) => {
    const y = row + Math.floor(p / kernel) - half;
    const x = column + (p % kernel) - half;
    return y >= 0 && y < rows && x >= 0 && x < columns;
  });
  return { row, column, rows, columns, window, inside, half, kernel, largest: Math.max(...window) };
}

// ---------------------------------------------------------------------------------------------------------- drawing

/** A colour of the style sheet, as the scheme has it now. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const percent = (value) => `${(100 * value).toFixed(1)} %`;

/** Draw all that depends on the chosen pixel. */
function draw() {
  seen = look();
  drawOverlay();
  drawHeads();
  drawNumbers();
  drawReadout();
}

function drawOverlay() {
  const canvas = at("overlay");
  const { width, height } = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const [down, across] = facts.images[state.image].cover;
  const cell = { width: width / (across * weights.width), height: height / (down * weights.height) };
  const { row, column, window, half, kernel, largest } = seen;
  const left = (column - half) * cell.width;
  const top = (row - half) * cell.height;
  veil(pen, width, height, left, top, kernel * cell.width, kernel * cell.height);
  const heat = colour("--heat");
  window.forEach((weight, p) => {
    pen.fillStyle = `rgb(${heat} / ${(HEAT * weight) / largest})`;
    const x = left + (p % kernel) * cell.width;
    const y = top + Math.floor(p / kernel) * cell.height;
    pen.fillRect(x, y, cell.width, cell.height);
  });
  if (at("boxes").checked) drawBoxes(pen, width, height);
  outline(pen, left, top, kernel * cell.width, kernel * cell.height, 1);
  outline(pen, column * cell.width, row * cell.height, cell.width, cell.height, cell.width < 20 ? 1 : 2);
}

/** Fade the image outside the window. */
function veil(pen, width, height, left, top, windowWidth, windowHeight) {
  pen.beginPath();
  pen.rect(0, 0, width, height);
  pen.rect(left, top, windowWidth, windowHeight);
  pen.fillStyle = colour("--paper");
  pen.globalAlpha = 0.5;
  pen.fill("evenodd");
  pen.globalAlpha = 1;
}

/** A white line on a dark one: it shows on every image. */
function outline(pen, x, y, width, height, thick) {
  pen.strokeStyle = "rgb(0 0 0 / .75)";
  pen.lineWidth = thick + 2;
  pen.strokeRect(x, y, width, height);
  pen.strokeStyle = "#fff";
  pen.lineWidth = thick;
  pen.strokeRect(x, y, width, height);
}

function drawBoxes(pen, width, height) {
  facts.images[state.image].answers.forEach(({ box }, n) => {
    if (!box) return;
    pen.lineWidth = n === marked ? 4 : 1;
    pen.strokeStyle = colour("--box");
    pen.strokeRect(box[0] * width, box[1] * height, (box[2] - box[0]) * width, (box[3] - box[1]) * height);
  });
}

/** The windows of all heads, small, on their buttons. */
function drawHeads() {
  for (const canvas of at("heads").querySelectorAll("canvas")) {
    const window = windowOf(weights, Number(canvas.dataset.head), seen.row, seen.column);
    const largest = Math.max(...window);
    const side = seen.kernel;
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    const pixels = pen.createImageData(side, side);
    const heat = colour("--heat").split(" ").map(Number);
    window.forEach((weight, p) => pixels.data.set([...heat, (255 * weight) / largest], 4 * p));
    pen.putImageData(pixels, 0, 0);
  }
}

/** The table of the window's weights. Its cells stay, for as long as K does. */
function drawNumbers() {
  const { kernel, half, window, inside, largest } = seen;
  const table = at("window");
  if (table.rows.length !== kernel + 1) {
    const signs = [...Array(kernel).keys()].map((n) => offset(n - half));
    const header = (text) => element("th", { textContent: text, scope: "col" });
    const rows = signs.map((sign) =>
      element("tr", {}, element("th", { textContent: sign, scope: "row" }), ...signs.map(() => element("td"))));
    table.replaceChildren(element("tr", {}, header(""), ...signs.map(header)), ...rows);
  }
  table.querySelectorAll("td").forEach((cell, p) => {
    cell.textContent = (100 * window[p]).toFixed(1);
    cell.style.setProperty("--part", (0.66 * window[p]) / largest);
    cell.className = inside[p] ? (p === half * kernel + half ? "centre" : "") : "outside";
  });
  at("largest").textContent = percent(largest);
  at("uniform").style.left = `${Math.min(100, 100 / window.length / largest)}%`;
}

const offset = (n) => (n > 0 ? `+${n}` : n < 0 ? `−${-n}` : "0");

/** Where an offset leads, in words. */
function direction(down, right) {
  const vertical = down ? [`${Math.abs(down)} ${down > 0 ? "down" : "up"}`] : [];
  const horizontal = right ? [`${Math.abs(right)} ${right > 0 ? "right" : "left"}`] : [];
  return [...vertical, ...horizontal].join(", ") || "at the pixel itself";
}

function drawReadout() {
  const { row, column, rows, columns, window, inside, half, kernel, largest } = seen;
  const place = window.indexOf(largest);
  const beyond = window.reduce((sum, weight, p) => (inside[p] ? sum : sum + weight), 0);
  const entropy = window.reduce((sum, weight) => (weight > 0 ? sum - weight * Math.log(weight) : sum), 0);
  const lines = {
    Pixel: `row ${row + 1}, column ${column + 1} of ${rows}×${columns}`,
    Largest: `${percent(largest)}, ${direction(Math.floor(place / kernel) - half, (place % kernel) - half)}`,
    "If all were equal": `${percent(1 / window.length)}, the mark on the scale`,
    "Beyond the border": percent(beyond),
    "Spread over": `${Math.exp(entropy).toFixed(1)} of ${window.length} pixels`,
  };
  at("readout").replaceChildren(...Object.entries(lines).flatMap(([name, text]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: text })]));
  say(Object.entries(lines).map((line) => line.join(": ")).join("; "));
  at("pin").textContent = state.pinned ? "Pinned: click again, or press Esc, to release." : "Click to pin the pixel.";
}

let saying;

/** Have a screen reader say where we are, once the pointer rests. */
function say(text) {
  clearTimeout(saying);
  saying = setTimeout(() => (at("spoken").textContent = text), 400);
}

// --------------------------------------------------------------------------------------------------------- controls

/** An HTML element with properties and children. Text goes in as text, whatever is in it. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Fill a fieldset with radio buttons: `options` are [value, label, content]. Buttons that fit already stay: they may
 *  have the focus. */
function choices(name, key, options) {
  const fieldset = at(name);
  const labels = JSON.stringify(options.map(([, label]) => label));
  if (fieldset.dataset.labels !== labels) {
    fieldset.dataset.labels = labels;
    fieldset.querySelectorAll("label").forEach((label) => label.remove());
    for (const [value, label, content] of options) {
      const input = element("input", { type: "radio", name, value });
      input.setAttribute("aria-label", label);
      input.addEventListener("change", () => choose({ [key]: value }));
      fieldset.append(element("label", { title: label }, input, content));
    }
  }
  for (const input of fieldset.querySelectorAll("input")) input.checked = Number(input.value) === state[key];
}

function makeImages() {
  choices("images", "image", facts.images.map(({ name, source, sharp }, n) =>
    [n, name, element("span", {}, element("img", { src: source, alt: "", className: sharp ? "sharp" : "" }))]));
  at("images").hidden = facts.images.length < 2;
}

function makeLayers() {
  choices("layers", "layer", facts.layers.map(({ name }, n) => {
    const size = facts.images[state.image].maps[n].join("×");
    return [n, `${name}, ${size}`, element("span", {}, `${name} `, element("small", { textContent: size }))];
  }));
}

function makeHeads() {
  const { heads } = facts.layers[state.layer];
  const all = [...Array(heads).keys()].map((n) => [n, `head ${n + 1}`, `${n + 1}`]);
  if (heads > 1) all.unshift([MEAN, "mean of heads", "mean"]);
  choices("heads", "head", all.map(([value, label, text]) => {
    const canvas = element("canvas");
    canvas.dataset.head = value;
    return [value, label, element("span", {}, canvas, text)];
  }));
}

function makeAnswers() {
  const { answers, truth, name } = facts.images[state.image];
  at("answers").replaceChildren(...answers.map(({ label, probability, box }, n) => {
    const fill = element("i");
    fill.style.width = `${100 * probability}%`;
    const parts = [
      element("span", { className: "label", textContent: label, title: label }),
      element("span", { className: "bar" }, fill),
      element("span", { className: "number", textContent: percent(probability) }),
    ];
    if (!box) return element("li", { className: label === truth ? "true" : "" }, ...parts);
    return element("li", { className: "detected" }, boxButton(n, box, parts));
  }));
  if (!answers.length) at("answers").append(element("li", { textContent: "no boxes" }));
  at("view").setAttribute("aria-label", `${name}: attention of the chosen pixel`);
}

/** A row of the list of boxes: hovered or focused it marks its box, pressed it moves to the box's centre. */
function boxButton(n, [left, top, right, bottom], parts) {
  const button = element("button", { type: "button" }, ...parts);
  const mark = (value) => () => {
    marked = value;
    drawOverlay();
  };
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, mark(n));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, mark(-1));
  button.addEventListener("click", () => choose({ y: (top + bottom) / 2, x: (left + right) / 2, pinned: true }));
  return button;
}

function showImage() {
  const { source, width, height, sharp, gray, name, truth } = facts.images[state.image];
  at("image").src = source;
  at("image").alt = truth === null ? name : `${name}, true class ${truth}`;
  at("left").style.setProperty("--aspect", width / height);
  at("view").classList.toggle("sharp", sharp);
  at("colour-label").hidden = gray;
  at("name").textContent = truth === null ? `${name}.` : `${name}, true class ${truth}.`;
}

/** Change what is chosen, and show it. */
async function choose(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  const { heads } = facts.layers[state.layer];
  if (heads === 1) state.head = 0;
  if (state.head >= heads) state.head = MEAN;
  const { image, layer, head } = state;
  if (weights && image === before.image && layer === before.layer && head === before.head) return draw();
  const wanted = await weightsOf(image, layer);
  if (image !== state.image || layer !== state.layer || head !== state.head) return undefined; // a later choice shows
  weights = wanted;
  showImage();
  makeImages();
  makeAnswers();
  makeLayers();
  makeHeads();
  return draw();
}

// ---------------------------------------------------------------------------------------------------- pointer, keys

/** The place of a pointer event on the image, as fractions. */
function placeOf(event) {
  const box = at("view").getBoundingClientRect();
  const fraction = (value, size) => Math.min(Math.max(value / size, 0), 1 - 1e-9);
  return { x: fraction(event.clientX - box.left, box.width), y: fraction(event.clientY - box.top, box.height) };
}

/** A mouse looks where it hovers and pins with a click; a finger or a pen looks where it touches. */
function followPointer() {
  const view = at("view");
  view.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || !state.pinned) choose(placeOf(event));
  });
  view.addEventListener("pointerdown", (event) => {
    view.focus({ preventScroll: true });
    const pinned = event.pointerType === "mouse" && !state.pinned;
    choose({ ...placeOf(event), pinned });
  });
}

/** Move by pixels of the map, to the middle of one. */
function move(down, right) {
  const [coverDown, coverAcross] = facts.images[state.image].cover;
  const to = (place, step, count) => Math.min(Math.max(place + step, 0), count - 1) + 0.5;
  const y = to(seen.row, down, seen.rows) / (weights.height * coverDown);
  const x = to(seen.column, right, seen.columns) / (weights.width * coverAcross);
  return choose({ y: Math.min(y, 1 - 1e-9), x: Math.min(x, 1 - 1e-9) });
}

/** The next of `count` choices from `first` on, or with Shift the one before; round and round. */
const next = (value, count, back, first = 0) => first + ((value - first + (back ? count - 1 : 1)) % count);

function followKeys() {
  const arrows = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  at("view").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { heads, kernel } = facts.layers[state.layer];
    const back = event.shiftKey;
    const actions = {
      l: () => choose({ layer: next(state.layer, facts.layers.length, back) }),
      h: () => heads > 1 && choose({ head: next(state.head, heads + 1, back, MEAN) }),
      n: () => choose({ image: next(state.image, facts.images.length, back) }),
      c: () => at("colour").click(),
      b: () => at("boxes").click(),
      Enter: () => choose({ pinned: !state.pinned }),
      Escape: () => choose({ pinned: false }),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (arrows[event.key]) move(...arrows[event.key].map((step) => step * (back ? kernel : 1)));
    else if (/^[0-9]$/.test(event.key)) Number(event.key) <= heads && choose({ head: Number(event.key) - 1 });
    else if (action) action();
    else return;
    event.preventDefault();
  });
}

function followTheRest() {
  at("colour").addEventListener("change", () => at("view").classList.toggle("colour", at("colour").checked));
  at("boxes").addEventListener("change", drawOverlay);
  new ResizeObserver(() => seen && drawOverlay()).observe(at("view"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

// ------------------------------------------------------------------------------------------------------------ start

async function start() {
  document.querySelectorAll(".for-detector").forEach((part) => (part.hidden = facts.kind !== "detector"));
  at("answers-title").textContent = facts.kind === "detector" ? "The network finds" : "The network answers";
  const { leftOut } = facts;
  if (leftOut.length) at("left-out").textContent = `Left out to keep the file small: ${leftOut.join(", ")}.`;
  await choose({});
  followPointer();
  followKeys();
  followTheRest();
  performance.mark("first overlay"); // milliseconds since the page was opened
}

start().catch((error) => {
  at("readout").textContent = `This browser cannot show the page: ${error.message}`;
  throw error;
});
