// The page of a served model: choose, drop or paste an image, and read the answers. Names are only ever shown as text.

const $ = (id) => document.getElementById(id);
const TOP = 5;
const SPLITS = { val: "validation", test: "test" };
const RESIZES = { crop: "the largest central part of an image", pad: "a whole image, padded with black", stretch: "a whole image, stretched" };
const SCALES = {
  none: "values from 0 to 255",
  unit: "values from 0 to 1",
  tf: "values from -1 to 1",
  torch: "values less ImageNet's mean, divided by its deviation",
  caffe: "values less ImageNet's mean, blue first",
};
const UNITS = { multiclass: ["class", "classes"], multilabel: ["label", "labels"], regression: ["number", "numbers"] };

let token = ""; // kept in memory only
let newest = null; // the image that was asked about last
let question = new AbortController(); // ends what is still on its way for an older image
let passport = load();

/** The server's response. Throws an Error with words for a person; `again` says whether asking again can help. */
async function ask(path, options) {
  const mine = token;
  const headers = mine ? { Authorization: `Bearer ${mine}` } : {};
  const response = await fetch(path, { ...options, headers }).catch(() => null);
  if (response?.ok) return response;
  const { error } = (await response?.json().catch(() => null)) ?? {};
  let words = error ?? `The server answered with status ${response?.status}.`;
  if (!response) words = "The server cannot be reached, or the file cannot be read.";
  if (response?.status === 503) {
    const seconds = Number(response.headers.get("Retry-After"));
    words = `The server is busy; try again ${seconds > 0 ? `in ${seconds} s` : "in a moment"}.`;
  }
  if (response?.status === 401 && mine === token) {
    $("access").hidden = false;
    $("token").focus();
  }
  throw Object.assign(new Error(words), { again: !response || response.status >= 500 });
}

/** Show an image, then its answers, then where the network looked. The newest image wins. */
async function show(file) {
  question.abort();
  question = new AbortController();
  const { signal } = question;
  const sent = { method: "POST", body: file, signal };
  newest = file;
  for (const id of ["answers", "again", "heat"]) $(id).hidden = true;
  $("about-heat").textContent = "The map appears after the answer.";
  $("about-image").textContent = file.name;
  picture($("image"), file);
  say("Classifying …", "waiting");
  try {
    const answer = await (await ask(`classify?top=${TOP}`, sent)).json();
    if (signal.aborted) return;
    const name = table(answer, (await passport)?.class_names);
    const model = await passport;
    if (!model?.grad_cam || signal.aborted) return;
    $("about-heat").textContent = "The map is being made …";
    const heat = await ask("grad-cam", sent).then((response) => response.blob()).catch((error) => error);
    if (signal.aborted) return;
    if (heat instanceof Blob) picture($("heat"), heat);
    $("about-heat").textContent = heat.message ?? `The brighter a part, the more it raised “${name}” (Grad-CAM). This is the image as the network saw it.`;
  } catch (error) {
    if (signal.aborted) return;
    say(error.message, "wrong");
    $("again").hidden = !error.again;
  }
}

/** Show an answer of the server, numbers in the order of `names`; the name in its first row. */
function table({ top, values }, names = Object.keys(values ?? {})) {
  const write = top ? percent : number;
  const rows = top ?? names.map((name) => [name, values[name]]);
  $("answers").tBodies[0].replaceChildren(...rows.map(([name, value]) => {
    const head = element("th", name);
    head.scope = "row";
    if (top) {
      const bar = element("span", element("span"));
      bar.className = "bar";
      bar.firstChild.style.width = `${100 * value}%`; // the policy forbids a style attribute, and not this
      head.append(bar);
    }
    const row = element("tr", head);
    row.append(element("td", write(value)));
    return row;
  }));
  $("answers").caption.textContent = top ? "The highest probabilities" : "The predicted numbers";
  $("answers").hidden = false;
  say(`${rows[0][0]}: ${write(rows[0][1])}`);
  return rows[0][0];
}

/** Ask for the passport and show it; null if the server does not give it. */
async function load() {
  const mine = token;
  try {
    const model = await (await ask("passport")).json();
    const size = model.class_names.length;
    const units = `${size} ${UNITS[model.task][size === 1 ? 0 : 1]}`;
    const metrics = measures({ ...model.passport.metrics, ...model.metrics });
    document.title = `${model.name}: ask about an image`;
    $("name").textContent = model.name;
    $("summary").textContent = [`Version ${model.version}`, units, ...metrics.slice(0, 1).map(([, words]) => words)].join(" · ");
    $("classes").textContent = units;
    $("names").replaceChildren(...model.class_names.map((name) => element("li", name)));
    $("facts").replaceChildren(...facts(model.passport, metrics));
    $("whole").textContent = JSON.stringify(model.passport, null, 2);
    $("looked").hidden = !model.grad_cam;
    $("passport").hidden = false;
    return model;
  } catch (error) {
    if (mine === token) $("summary").textContent = `The model's passport cannot be shown: ${error.message}`;
    return null;
  }
}

/** [split, words, words of the interval] for each metric. */
function measures(metrics) {
  return Object.entries(metrics).flatMap(([key, value]) => {
    const [, split, name] = key.match(/^(val|test)_(.+)$/) ?? [];
    if (!name || name === "examples" || typeof value !== "number") return [];
    const write = /accuracy|match|precision/.test(name) ? percent : number;
    const between = metrics[`${key}_interval`]?.map(write).join(" to ");
    return [[split, `${name.replaceAll("_", " ")} ${write(value)}`, between ? `, 95 % interval ${between}` : ""]];
  });
}

/** The parts of a passport that people ask for, each as a name with lines. */
function facts(all, metrics) {
  const { preprocessing: seen, started_from: start, environment: made, gate } = all;
  const last = (path) => path?.split(/[\\/]/).findLast(Boolean);
  const count = (value) => value?.toLocaleString("en") ?? "";
  const versions = Object.entries(made?.versions ?? {}).filter(([name]) => ["keras", "tensorflow", "numpy"].includes(name));
  const groups = [
    ...Object.entries(SPLITS).map(([split, word]) => [
      `Measured on ${count(all.metrics?.[`${split}_examples`])} ${word} images`,
      metrics.filter(([of]) => of === split).map(([, words, between]) => words + between),
    ]),
    ["Network", [
      all.name,
      start && (start.weights === "none" ? "trained from random weights" : `trained from the weights ${last(start.weights)}`),
      start?.license && `their license: ${start.license} (${start.license_source})`,
    ]],
    ["Data", [last(all.recipe?.data?.path), all.data_digest && `digest ${all.data_digest.slice(0, 16)}`]],
    ["What it sees", seen && [
      `${RESIZES[seen.resize]} (${seen.interpolation})`,
      `${seen.width} x ${seen.height} pixels ${seen.channels === 1 ? "in gray" : "in color"}`,
      SCALES[seen.scaling],
    ]],
    ["Weights", [all.weights_sha256 && `sha256 ${all.weights_sha256.slice(0, 16)}`]],
    ["Checked before it was kept", gate && [
      `${count(gate.images)} ${SPLITS[gate.split] ?? gate.split} images get the same answers as in the evaluation`,
      `largest difference ${number(gate.largest_difference)}`,
    ]],
    ["Made by", [
      `run ${all.run}, ${made?.started?.slice(0, 10)}`,
      [`kerazoo ${all.kerazoo}`, ...versions.map((pair) => pair.join(" "))].join(", "),
    ]],
  ];
  return groups.flatMap(([name, lines]) => {
    const group = element("div", element("dt", name));
    group.append(...(lines ?? []).filter(Boolean).map((line) => element("dd", line)));
    return group.children.length > 1 ? [group] : [];
  });
}

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const number = (value) => String(Number(value?.toPrecision(Math.abs(value) < 1000 ? 4 : 6)));

function element(tag, content = "") {
  const made = document.createElement(tag);
  made.append(content);
  return made;
}

function picture(image, blob) {
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
}

function say(words, state = "") {
  $("status").textContent = words;
  $("status").className = state;
}

for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault(); // or the browser would leave the page for the file
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) show(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files[0]) show(event.clipboardData.files[0]);
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same file can be chosen again
  if (file) show(file);
});
$("image").addEventListener("error", () => { $("image").hidden = true; }); // this browser cannot show it
$("again").addEventListener("click", () => {
  $("file").focus();
  show(newest);
});
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value;
  $("access").reset();
  $("access").hidden = true;
  $("file").focus();
  passport = load();
  if (newest) show(newest);
});
