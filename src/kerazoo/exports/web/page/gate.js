// Runs in the page when the gate tries it: answers all of its images, and sends what it found. It is not in an export.

const BATCHES = [1, 8];
const ROUNDS = 15;
const SECONDS = 20; // after which no more rounds are timed
const SHOWN = 20; // images, spread over all, that are also given to the page as a person does
const $ = (id) => document.getElementById(id);
const bytes = async (name) => new Uint8Array(await (await fetch(`gate/${name}`)).arrayBuffer());
const send = (values) => fetch("gate/found", { method: "POST", body: JSON.stringify(values) });
const alive = () => fetch("gate/alive"); // or the gate would give the page up

/** Choose an image as a person does: the first name in the table, or what is said in its place. */
async function shown(number) {
  const data = new DataTransfer();
  data.items.add(new File([await bytes(`images/${number}`)], "image"));
  $("file").files = data.files;
  $("file").dispatchEvent(new Event("change"));
  while ($("answers").hidden && !$("status").textContent.startsWith("This image")) {
    await new Promise((done) => setTimeout(done, 20));
  }
  return $("answers").hidden ? $("status").textContent : $("answers").rows[0].cells[0].textContent;
}

async function timed(call, count) {
  const times = [];
  const end = performance.now() + 1000 * SECONDS;
  for (let round = 0; round < ROUNDS && (round < 1 || performance.now() < end); round++) {
    const begin = performance.now();
    await call();
    times.push((performance.now() - begin) / 1000 / count);
    await alive();
  }
  return times.sort((one, other) => one - other)[times.length >> 1];
}

async function found({ answer, decode, settings }, { images, height, width }) {
  const answers = [];
  for (let number = 0; number < images; number++) {
    try {
      answers.push([...await answer(await decode(new Blob([await bytes(`images/${number}`)])))]);
    } catch (error) {
      answers.push(String(error?.message ?? error));
    }
  }
  const batch = { pixels: await bytes("fitted"), height, width, count: BATCHES.at(-1) };
  const whole = await answer(batch);
  await alive();
  const again = await answer(batch);
  const alone = [];
  const size = batch.pixels.length / batch.count;
  for (let start = 0; start < batch.pixels.length; start += size) {
    alone.push(...await answer({ ...batch, pixels: batch.pixels.slice(start, start + size), count: 1 }));
    await alive();
  }
  const seconds = [];
  for (const count of BATCHES) {
    const some = { ...batch, pixels: batch.pixels.slice(0, size * count), count };
    seconds.push(await timed(() => answer(some), count));
  }
  const first = [];
  for (let number = 0; number < images; number += Math.ceil(images / SHOWN)) first.push([number, await shown(number)]);
  return {
    answers,
    names: settings.class_names,
    probabilities: settings.probabilities,
    shown: first,
    twice: whole.some((value, index) => value !== again[index]),
    alone: whole.reduce((most, value, index) => Math.max(most, Math.abs(value - alone[index])), 0),
    seconds,
  };
}

try {
  const asked = await (await fetch("gate/asked")).json();
  await send(await found(await import("./classify.js"), asked));
} catch (error) {
  await send({ error: String(error) }).catch(() => window.close()); // the gate is gone
}
