// llama.cpp behind the routes of llama-server 11434 that the gate asks: node-llama-cpp's prebuilt library, float32 KV
// cache, no flash attention. It answers as the recorded fixtures do: /completion gives completion_probabilities with
// ids and no more, /v1/completions takes token ids and ignores prompt_logprobs and echo.
//
// usage: node llama_server.mjs NODE_MODULES MODEL.gguf PORT
import http from "http";
import path from "path";

const [modules, gguf, port] = process.argv.slice(2);
const {getLlama} = await import(path.join(modules, "node-llama-cpp/dist/index.js"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 2});
const model = await llama.loadModel({modelPath: gguf});
const context = await model.createContext({contextSize: 512, flashAttention: false,
  experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
const sequence = context.getSequence();
let vocabulary = 0;

// after gives the probabilities that follow tokens, likeliest first; what the
// last request left in the cache is used again.
async function after(tokens) {
  if (tokens.length > 1) await sequence.adaptStateToTokens(tokens.slice(0, -1));
  else await sequence.clearHistory();
  if (sequence.nextTokenIndex >= tokens.length) { // a longer text was there before
    await sequence.eraseContextTokenRanges([{start: tokens.length - 1, end: sequence.nextTokenIndex}]);
  }
  const rest = tokens.slice(sequence.nextTokenIndex);
  const steps = await sequence.controlledEvaluate(rest.map((t, i) => i === rest.length - 1 ? [t, {generateNext: {probabilities: true}}] : t));
  const list = [...steps.at(-1).next.probabilities.entries()].sort((a, b) => b[1] - a[1]);
  vocabulary = list.length;
  return list;
}

function random(seed) { // mulberry32
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const end = model.tokens.eos;
const texts = new Map();
const text = (id) => texts.get(id) ?? (texts.set(id, model.detokenize([id])), texts.get(id));
const whole = (s) => s !== "" && !s.includes("\uFFFD");

async function completion(q) {
  const prompt = Array.isArray(q.prompt) ? q.prompt : model.tokenize(q.prompt, false);
  const bias = new Map((q.logit_bias ?? []).map(([id, b]) => [id, b]));
  const draw = random(q.seed ?? 1), tokens = [], probabilities = [];
  let stop = "limit", content = "";
  for (let i = 0; i < (q.n_predict ?? 1); i++) {
    const list = await after([...prompt, ...tokens]);
    let id = list[0][0];
    const forced = [...bias.entries()].find(([, b]) => b >= 100);
    if (forced) id = forced[0];
    else if ((q.temperature ?? 0.8) > 0 && q.top_k !== 1) {
      let u = draw();
      for (const [candidate, p] of list) { id = candidate; if ((u -= p) < 0) break; }
    }
    if (id === end && !q.ignore_eos) { stop = "eos"; break; }
    tokens.push(id);
    content += text(id);
    const cut = Math.min(...(q.stop ?? []).map((w) => content.indexOf(w)).filter((at) => at >= 0));
    if (cut < Infinity) { content = content.slice(0, cut); stop = "word"; break; }
    if (q.n_probs > 0 && whole(text(id))) {
      const log = (p) => p > 0 ? Math.log(p) : -1e9;
      probabilities.push({id, token: text(id), bytes: [], logprob: log(list.find(([c]) => c === id)[1]),
        top_logprobs: list.slice(0, q.n_probs).map(([c, p]) => ({id: c, token: text(c), bytes: [], logprob: log(p)}))});
    }
  }
  return {index: 0, content, tokens: q.return_tokens ? tokens : [], stop: true, model: gguf, tokens_predicted: tokens.length,
    tokens_evaluated: prompt.length, truncated: false, stop_type: stop,
    ...(probabilities.length ? {completion_probabilities: probabilities} : {})};
}

async function openai(q) {
  const choices = [];
  let read = 0, written = 0;
  for (let index = 0; index < (q.n ?? 1); index++) {
    const answer = await completion({prompt: q.prompt, n_predict: q.max_tokens ?? 16, temperature: q.temperature ?? 0.8, seed: (q.seed ?? 1) + index,
      n_probs: q.logprobs ?? 0, top_k: q.top_k, stop: q.stop, ignore_eos: q.ignore_eos,
      logit_bias: Object.entries(q.logit_bias ?? {}).map(([id, b]) => [Number(id), b])});
    const choice = {text: answer.content, index, finish_reason: answer.stop_type === "limit" ? "length" : "stop"};
    if (q.logprobs) choice.logprobs = {content: answer.completion_probabilities ?? []};
    choices.push(choice);
    read = answer.tokens_evaluated, written += answer.tokens_predicted;
  }
  return {choices, model: gguf, object: "text_completion", usage: {completion_tokens: written,
    prompt_tokens: read, total_tokens: read + written, prompt_tokens_details: {cached_tokens: 0}}};
}

const routes = {
  "GET /health": async () => ({status: "ok"}),
  "GET /props": async () => ({model_path: gguf, build_info: "node-llama-cpp 3.22.1", default_generation_settings: {n_ctx: 512, speculative: false}}),
  "GET /v1/models": async () => ({object: "list", data: [{id: gguf, object: "model", owned_by: "llamacpp", meta: {n_vocab: vocabulary || undefined, n_ctx: 512}}]}),
  "POST /tokenize": async (q) => ({tokens: [...model.tokenize(q.content, false)]}),
  "POST /completion": completion,
  "POST /v1/completions": openai,
};
let turn = Promise.resolve(); // one slot
http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => body += piece);
  request.on("end", () => {
    turn = turn.then(async () => {
      const route = routes[`${request.method} ${request.url}`];
      let status = 200, answer;
      try {
        if (!route) throw Object.assign(new Error("File Not Found"), {status: 404, type: "not_found_error"});
        answer = await route(body ? JSON.parse(body) : {});
      } catch (e) {
        status = e.status ?? 500;
        answer = {error: {code: status, message: e.message, type: e.type ?? "server_error"}};
      }
      response.writeHead(status, {"Content-Type": "application/json; charset=utf-8", Server: "llama.cpp"});
      response.end(JSON.stringify(answer));
    });
  });
}).listen(Number(port), "127.0.0.1", async () => { await after([1]); console.log("ready"); });
