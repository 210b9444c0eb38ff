// Runs in the page when the gate tries it: answers all of its images, and sends what it found. It is not in an export.

const BATCHES = [1, 8];
const ROUNDS = 15;
const bytes = async (name) => new Uint8Array(await (await fetch(`gate/${name}`)).arrayBuffer());
const send = (values) => fetch("gate/found", { method: "POST", body: JSON.stringify(values) });

async function found({ answer, decode }, { images, height, width }) {
  const answers = [];
  for (let number = 0; number < images; number++) {
    try {
      answers.push([...await answer(await decode(new Blob([await bytes(`images/${number}`)])))]);
    } catch (error) {
      answers.push(error.message);
    }
  }
  const batch = { pixels: await bytes("fitted"), height, width, count: BATCHES.at(-1) };
  const whole = await answer(batch);
  const again = await answer(batch);
  const alone = [];
  const size = batch.pixels.length / batch.count;
  for (let start = 0; start < batch.pixels.length; start += size) {
    alone.push(...await answer({ ...batch, pixels: batch.pixels.slice(start, start + size), count: 1 }));
  }
  const seconds = [];
  for (const count of BATCHES) {
    const some = { ...batch, pixels: batch.pixels.slice(0, size * count), count };
    const times = [];
    for (let round = 0; round < ROUNDS; round++) {
      const begin = performance.now();
      await answer(some);
      times.push((performance.now() - begin) / 1000 / count);
    }
    seconds.push(times.sort((one, other) => one - other)[ROUNDS >> 1]);
  }
  return {
    answers,
    twice: whole.some((value, index) => value !== again[index]),
    alone: Math.max(...whole.map((value, index) => Math.abs(value - alone[index]))),
    seconds,
  };
}

try {
  const asked = await (await fetch("gate/asked")).json();
  await send(await found(await import("./classify.js"), asked));
} catch (error) {
  await send({ error: String(error) });
}
