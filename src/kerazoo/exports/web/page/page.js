// What a person sees: choose or drop an image, or take one by the camera, and read the answers.

const $ = (id) => document.getElementById(id);
const say = (text) => { $("status").textContent = text; };
const words = (value) => network.settings.probabilities ? `${(100 * value).toFixed(1)} %` : value.toPrecision(4);
const TOP = 5;
let network = null;
let stream = null;
let asked = 0;

/** Classify a Blob and show it; a newer one takes the place of what is still being worked on. */
async function show(blob) {
  const number = ++asked;
  endCamera();
  $("shown").hidden = true;
  $("answers").hidden = true;
  say("Classifying …");
  try {
    const begin = performance.now();
    const pixels = await network.decode(blob);
    if (number !== asked) return;
    URL.revokeObjectURL($("image").src);
    $("image").src = URL.createObjectURL(blob);
    $("shown").hidden = false;
    const values = await network.answer(pixels);
    if (number !== asked) return;
    const [name, value] = table(values)[0];
    say(`${name}: ${words(value)} (${Math.round(performance.now() - begin)} ms)`);
  } catch (error) {
    if (number === asked) say(`This image has no answer: ${error.message}`);
  }
}

/** Show the answers; the rows that are shown, [name, value]. */
function table(values) {
  const { class_names: names, probabilities } = network.settings;
  const rows = names.map((name, index) => [name, values[index]]);
  if (probabilities) rows.sort((one, other) => other[1] - one[1]).splice(TOP);
  $("answers").tBodies[0].replaceChildren(...rows.map(([name, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    if (probabilities) {
      const meter = document.createElement("meter");
      meter.value = value;
      meter.ariaHidden = "true";
      head.append(meter);
    }
    row.append(head);
    row.insertCell().textContent = words(value);
    return row;
  }));
  $("answers").caption.textContent = probabilities ? "The most likely classes" : "The predicted numbers";
  $("answers").hidden = false;
  return rows;
}

function endCamera() {
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  $("video").hidden = true;
  $("camera").textContent = "Use the camera";
}

/** The first press shows what the camera sees, the second takes the image. */
async function camera() {
  $("camera").disabled = true;
  try {
    if (stream) {
      const canvas = new OffscreenCanvas($("video").videoWidth, $("video").videoHeight);
      canvas.getContext("2d").drawImage($("video"), 0, 0);
      await show(await canvas.convertToBlob());
    } else {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      $("video").srcObject = stream;
      $("video").hidden = false;
      await $("video").play();
      $("camera").textContent = "Take the image";
    }
  } catch (error) {
    endCamera();
    say(`The camera cannot be used: ${error.message}`);
  } finally {
    $("camera").disabled = false;
  }
}

for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // or the browser would leave the page for the file
    $("drop").classList.toggle("over", name === "dragover");
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file && network) show(file);
    else if (file) say("The network is not loaded yet.");
  });
}
$("file").addEventListener("change", () => $("file").files[0] && show($("file").files[0]));
$("camera").addEventListener("click", camera);
try {
  network = await import("./classify.js");
  const { class_names: names, probabilities } = network.settings;
  const listed = names.slice(0, 20).join(", ") + (names.length > 20 ? ", …" : "");
  $("classes").textContent = probabilities ? `${names.length} classes: ${listed}` : `It predicts: ${listed}`;
  $("file").disabled = false;
  $("camera").disabled = !navigator.mediaDevices;
} catch (error) {
  $("classes").textContent = "";
  say(`The network cannot be loaded: ${error.message}`);
}
