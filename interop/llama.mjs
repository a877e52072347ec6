// Teacher-forced probabilities of every token at every position from llama.cpp
// (node-llama-cpp's prebuilt library, float32 weights and KV cache).
//
// usage: node llama.mjs NODE_MODULES JOB.json OUT.json
//
// JOB is {"models": {"name": {"gguf", "sequences": [[ids]], "prompts": [[ids]]}}, "top", "steps"};
// OUT is {"name": {"scores": [[null, {"id": logprob}, …]], "actual": [[null, logprob, …]], "greedy": [[ids]]}}.
import fs from "fs";
import path from "path";

const [modules, jobFile, outFile] = process.argv.slice(2);
const {getLlama} = await import(path.join(modules, "node-llama-cpp/dist/index.js"));
const job = JSON.parse(fs.readFileSync(jobFile));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 2});
const out = {};

// probabilities after each token: from the likeliest down, the whole vocabulary.
async function evaluate(sequence, tokens) {
  await sequence.clearHistory();
  const steps = await sequence.controlledEvaluate(tokens.map((t) => [t, {generateNext: {probabilities: true}}]));
  return steps.map((s) => s.next.probabilities);
}

for (const [name, m] of Object.entries(job.models)) {
  const model = await llama.loadModel({modelPath: m.gguf});
  const context = await model.createContext({contextSize: 512, flashAttention: false,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
  const sequence = context.getSequence();
  const result = {scores: [], actual: [], greedy: []};
  for (const tokens of m.sequences) {
    const after = await evaluate(sequence, tokens);
    const scores = [null], actual = [null];
    for (let t = 1; t < tokens.length; t++) {
      const best = [...after[t - 1].entries()].sort((a, b) => b[1] - a[1]).slice(0, job.top);
      scores.push(Object.fromEntries(best.map(([id, p]) => [id, Math.log(p)])));
      actual.push(Math.log(after[t - 1].get(tokens[t])));
    }
    result.scores.push(scores);
    result.actual.push(actual);
  }
  for (const prompt of m.prompts) {
    const tokens = [...prompt];
    for (let i = 0; i < job.steps; i++) {
      let best = -1, most = -1;
      for (const [id, p] of (await evaluate(sequence, tokens)).at(-1)) if (p > most) [best, most] = [id, p];
      tokens.push(best);
    }
    result.greedy.push(tokens.slice(prompt.length));
  }
  out[name] = result;
  await model.dispose();
}
fs.writeFileSync(outFile, JSON.stringify(out));
process.exit(0);
