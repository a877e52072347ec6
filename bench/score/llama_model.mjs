// The work of main.go in llama.cpp (npm node-llama-cpp); prints one line of JSON. Prefill computes the logits of the
// last token only: llama.cpp's library hands over no others without copying a whole vocabulary for each token.
//
// usage: node llama_model.mjs NODE_MODULES FILE.gguf TOKENS PROMPT DECODE THREADS wall|cpu
import path from "path";

const [modules, gguf, ...numbers] = process.argv.slice(2);
const [tokens, prompt, decode, threads] = numbers.slice(0, 4).map(Number);
const {getLlama} = await import(path.join(modules, "node-llama-cpp/dist/index.js"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: threads});
const model = await llama.loadModel({modelPath: gguf});
const vocab = 151936;
const context = await model.createContext({contextSize: tokens + 256, batchSize: 512, threads});
const sequence = context.getSequence();
const used = () => { const u = process.cpuUsage(); return (u.user + u.system) / 1e6; };
const seconds = numbers[4] === "cpu" ? used : () => Number(process.hrtime.bigint()) / 1e9;
const ids = (n) => Array.from({length: n}, (_, i) => i * 7919 % vocab);

await sequence.evaluateWithoutGeneratingNewTokens(ids(64));
await sequence.clearHistory();
let began = seconds();
await sequence.evaluateWithoutGeneratingNewTokens(ids(tokens));
const prefill = tokens / (seconds() - began);
await sequence.clearHistory();
let n = -1;
for await (const _ of sequence.evaluate(ids(prompt), {temperature: 0, yieldEogToken: true})) {
  if (n < 0) began = seconds(); // the first token is the prompt's
  if (++n === decode) break;
}
console.log(JSON.stringify({prefill, decode: n / (seconds() - began), peak: process.resourceUsage().maxRSS * 1024}));
process.exit(0);
