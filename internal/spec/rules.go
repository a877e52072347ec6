package spec

import (
	"regexp"
	"strings"

	"tarbert/internal/device"
	"tarbert/internal/reward"
)

// rule is what holds for one field wherever it stands. Conditions between
// fields are in validate.go.
type rule struct {
	path    string // "train.sft.batch"; a list's elements are "pools[].name", "convert.formats[]"
	about   string // for the schema
	example string // what to write, as YAML
	// required: without it the file is wrong. The others have a default.
	required bool
	// min and max are inclusive bounds of a number, or of a list's length; min
	// itself is not allowed where open. No bounds if max is 0.
	min, max float64
	open     bool
	choices  []string
	pattern  *regexp.Regexp
	form     string // the pattern in words
	file     fileKind
}

// fileKind says what a path must lead to.
type fileKind int

const (
	notFile fileKind = iota
	regularFile
	modelFolder // holds config.json and tokenizer.json
)

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

const nameForm = "up to 40 lower-case letters, digits and dashes"

// Formats lists the weight formats that convert can write.
func Formats() []string { return []string{"bf16", "w8a8-ascend"} }

// Waivable lists the checks of qualify whose being inconclusive may be waived.
func Waivable() []string {
	return []string{"capability", "parity", "convergence twin", "checkpoint", "speed"}
}

// rules is the table of fields, in the file's order.
func rules() []rule {
	all := []rule{
		{path: "name", about: "name of the release: part of file, task and model names", example: "sums", required: true, pattern: namePattern, form: nameForm},
		{path: "seed", about: "seed of every random choice in the release", example: "1"},
		{path: "pools", about: "devices of one kind behind one executor, with the roles they may play", example: "[{name: here, vendor: cpu, roles: [fallback, target]}]", required: true, min: 1, max: 64},
		{path: "pools[].name", example: "ascend", required: true, pattern: namePattern, form: nameForm},
		{path: "pools[].vendor", example: "cpu", required: true, choices: []string{string(device.NVIDIA), string(device.Ascend), string(device.CPU)}},
		{path: "pools[].executor", about: "where its tasks run", example: "local", choices: []string{"local"}},
		{path: "pools[].site", about: "where it stands: what the policy's clauses about sites go by", example: "here"},
		{path: "pools[].roles", about: "preferred and fallback train, reference judges, target serves", example: "[fallback, target]", required: true, min: 1, max: 4},
		{path: "pools[].price", about: "of one device for an hour, in any currency; 0 = money is not counted", example: "2.5", min: 0, max: 1e6},
		{path: "pools[].tflops", about: "dense peak of one device, in what its trainer computes in, for a chip that plan has no figure of; 0 = as plan's tables have it", example: "376", min: 0, max: 1e6},
		{path: "pools[].mfu", about: "least and greatest share of that peak that training may reach; default: plan assumes a wide range", example: "[0.2, 0.4]", min: 0, max: 2},
		{path: "pools[].mfu[]", example: "0.3", open: true, max: 1},
		{path: "pools[].roles[]", example: "fallback", choices: []string{string(Preferred), string(Fallback), string(Reference), string(Target)}},
		{path: "pools[].trainer", about: "what trains in this pool; default train.trainer. In a pool that is only the reference: the judge of a move", example: "command", choices: Trainers()},
		{path: "pools[].command", about: "of trainer command; default train.command", example: "[python3, ./train_npu.py]", min: 0, max: 1000},
		{path: "pools[].command[]", example: "./train_npu.py"},

		{path: "policy", about: "which chips may be used at which stage, where, from and until when; a waiver lifts a clause and goes into the certificate", example: "[{id: home-1, text: no foreign chips in state-funded data centres, vendors: [nvidia], sites: [state]}]", max: 1000},
		{path: "policy[].id", example: "home-1", required: true},
		{path: "policy[].text", about: "the clause in words: a refusal quotes it", example: "no foreign chips in state-funded data centres", required: true},
		{path: "policy[].stage", about: "default all", example: "train", choices: []string{"train", "verify", "serve"}},
		{path: "policy[].vendors", about: "forbidden; default all", example: "[nvidia]", max: 100},
		{path: "policy[].vendors[]", example: "nvidia"},
		{path: "policy[].sites", about: "where; default everywhere", example: "[state]", max: 1000},
		{path: "policy[].sites[]", example: "state"},
		{path: "policy[].from", about: "first day", example: "2025-11-05"},
		{path: "policy[].until", about: "day after the last", example: "2030-01-01"},
		{path: "policy[].waiver.by", about: "who lifted the clause", example: "the director"},
		{path: "policy[].waiver.until", about: "last day of the waiver; default without end", example: "2027-12-31"},
		{path: "policy[].waiver.why", example: "until the domestic pool is qualified"},

		{path: "label.annotations", about: `JSON Lines of {"id","prompt","completion","votes":{"annotator":"label"|null}}`, example: "data/annotations.jsonl", required: true, file: regularFile},
		{path: "label.accept", about: "adjudicated label that enters the dataset", example: "good"},
		{path: "label.agreement.alpha", about: "the lower bound of Krippendorff's alpha must reach this", example: "0.667", open: true, max: 1},
		{path: "label.agreement.confidence", about: "of the bound, one-sided", example: "0.95", min: 0.5, max: 0.9999},
		{path: "label.agreement.resamples", about: "bootstrap resamples", example: "1000", min: 100, max: 1_000_000},

		{path: "plan.deadline", about: "longest training time", example: "30m", required: true},

		{path: "qualify.twin_steps", about: "steps of the convergence twin", example: "30", min: 2, max: 10_000},
		{path: "qualify.gradient_tolerance", about: "largest relative error of a directional derivative against float64 finite differences", example: "0.01", open: true, max: 1},

		{path: "qualify.waivers", about: "checks that may stay inconclusive, who says so and why; the certificate names them. A failed check cannot be waived", example: "[{checks: [parity], by: the training lead, why: our trainer does not replay}]", min: 0, max: 100},
		{path: "qualify.waivers[].checks", example: "[parity, speed]", required: true, min: 1, max: 10},
		{path: "qualify.waivers[].checks[]", example: "parity", choices: Waivable()},
		{path: "qualify.waivers[].by", about: "who lifted the check", example: "the training lead", required: true},
		{path: "qualify.waivers[].until", about: "last day of the waiver; default without end", example: "2027-12-31"},
		{path: "qualify.waivers[].why", example: "our trainer does not replay stored batches", required: true},

		{path: "train.trainer", about: "which trainer runs the recipe", example: "reference", choices: Trainers()},
		{path: "train.command", about: "how your own trainer is started, for trainer command; elements that begin with ./ or ../ are files from the release file's folder", example: "[python3, ./my_train.py]", min: 0, max: 1000},
		{path: "train.command[]", example: "./my_train.py"},
		{path: "train.model", about: "folder with config.json, tokenizer.json and the chat template", example: "model", required: true, file: modelFolder},
		{path: "train.dtype", about: "dtype of weights and arithmetic in training", example: "float32", choices: []string{"float32"}},
		{path: "train.checkpoint.every", about: "steps between checkpoints", example: "50", min: 1, max: 1e9},
		{path: "train.checkpoint.keep", about: "newest checkpoints kept, besides the last of each stage", example: "3", min: 1, max: 1e6},
		{path: "train.restarts", about: "attempts without progress that end the stage", example: "3", min: 1, max: 1000},
		{path: "train.supervise.hang_floor", about: "no section is taken for hung sooner", example: "10s"},
		{path: "train.supervise.first_limit", about: "how long a section's first unit may take while there is no history of it", example: "30m"},
		{path: "train.supervise.unit_limit", about: "how long a later one may take while there is little", example: "5m"},
		{path: "train.supervise.adapt_interval", about: "let checkpoint.every follow the measured cost of a save and rate of failures", example: "false"},
		{path: "train.supervise.log_pattern", about: "regular expression with groups step, loss, grad_norm, for a trainer that does not speak the contract", example: `"step=(?P<step>\d+) loss=(?P<loss>\S+)"`},
		{path: "train.fallback.authorized", about: "go on in the fallback pool without asking a person", example: "false"},
		{path: "train.fallback.clean_steps", about: "steps in a row without interruption", example: "1000", min: 1, max: 1e9},
		{path: "train.fallback.clean_within", about: "time until the first that many; 0s = no limit", example: "48h"},
		{path: "train.fallback.preference", about: "how much later the finish may be in the pool in use", example: "120h"},
		{path: "train.fallback.day_worth", about: "what a day earlier is worth, in the currency of the pools' prices; 0 = money counts only in budgets", example: "0", min: 0, max: 1e12},
		{path: "train.fallback.hangs", about: "hangs that nothing explains; 0 = no limit", example: "5", min: 0, max: 1e6},
		{path: "train.fallback.breaches", about: "parity breaches in a row; 0 = no limit", example: "3", min: 0, max: 1e6},
		{path: "train.fallback.ettr", about: "floor of the effective training time ratio over window; 0 = none", example: "0.5", min: 0, max: 1},
		{path: "train.fallback.window", about: "stretch that the floor is held against", example: "72h"},
		{path: "train.sft.steps", example: "400", required: true, min: 1, max: 1e9},
		{path: "train.sft.batch", about: "examples per step", example: "64", required: true, min: 1, max: 1e6},
		{path: "train.sft.router_bias", about: "step of the auxiliary-loss-free load balancing; 0 = off", example: "0.001", min: 0, max: 1},
		{path: "train.grpo.steps", about: "0 = no reinforcement learning", example: "30", min: 0, max: 1e9},
		{path: "train.grpo.problems", about: `JSON Lines of {"id","prompt","answer"}`, example: "data/problems.jsonl", file: regularFile},
		{path: "train.grpo.reward", about: "checker of answers", example: "answer", choices: reward.Names()},
		{path: "train.grpo.prompts", about: "prompts per step", example: "32", min: 1, max: 1e6},
		{path: "train.grpo.samples", about: "samples per prompt; their mean is the baseline, so at least 2", example: "8", min: 2, max: 1e4},
		{path: "train.grpo.max_tokens", about: "longest sampled answer", example: "64", min: 1, max: 1e6},
		{path: "train.grpo.temperature", example: "1.0", open: true, max: 10},
		{path: "train.grpo.clip_low", about: "the ratio is clipped below at 1 - clip_low", example: "0.2", open: true, max: 1},
		{path: "train.grpo.clip_high", about: "the ratio is clipped above at 1 + clip_high", example: "0.28", open: true, max: 100},
		{path: "train.grpo.objective", example: "grpo", choices: []string{"grpo", "gspo"}},

		{path: "train.reference.sft.z_loss", about: "factor of the mean squared log-sum-exp of the logits", example: "1e-4", min: 0, max: 1},
		{path: "train.reference.sft.router_z_loss", about: "the same of the router's logits", example: "1e-3", min: 0, max: 1},
		{path: "train.reference.grpo.z_loss", about: "factor of the mean squared log-sum-exp of the logits", example: "1e-4", min: 0, max: 1},
		{path: "train.reference.grpo.router_z_loss", about: "the same of the router's logits", example: "1e-3", min: 0, max: 1},
		{path: "train.reference.grpo.rollout_precision", about: "profile that completions are sampled in", example: "w8a8", choices: []string{"f32", "bf16", "w8a8"}},
		{path: "train.reference.grpo.routing_replay", about: "train with the experts that the rollout chose", example: "true"},
		{path: "train.reference.grpo.correction.truncate", about: "largest importance weight; 0 = off", example: "2", min: 0, max: 1e6},
		{path: "train.reference.grpo.correction.truncate_level", example: "token", choices: []string{"token", "sequence", "geometric"}},
		{path: "train.reference.grpo.correction.mask_low", about: "smaller importance ratios weigh nothing", example: "0.5", min: 0, max: 1e6},
		{path: "train.reference.grpo.correction.mask_high", about: "larger importance ratios weigh nothing; 0 = off", example: "2", min: 0, max: 1e6},
		{path: "train.reference.grpo.correction.mask_level", example: "geometric", choices: []string{"token", "sequence", "geometric"}},

		{path: "train.torchrun.python", about: "interpreter with torch, transformers 5 and safetensors; without a slash it is looked for in PATH", example: "python3"},
		{path: "train.torchrun.nproc", about: "ranks on the machine, one per chip", example: "1", min: 1, max: 1024},
		{path: "train.torchrun.device", about: "auto takes the first there is of npu, cuda and cpu", example: "auto", choices: []string{"auto", "cuda", "npu", "cpu"}},
		{path: "train.torchrun.parallel", about: "of several ranks: ddp repeats the weights, fsdp2 spreads them", example: "ddp", choices: []string{"ddp", "fsdp2"}},
		{path: "train.torchrun.precision", about: "of the arithmetic; weights and moments stay float32", example: "float32", choices: []string{"float32", "bfloat16"}},
		{path: "train.torchrun.micro_tokens", about: "that go through the model at once on a rank, padding included", example: "4096", min: 1, max: 1e9},
		{path: "train.torchrun.deterministic", about: "PyTorch's deterministic algorithms: the same bits again, slower", example: "false"},
		{path: "train.torchrun.args", about: "further arguments to torchrun", example: `["--nnodes=2"]`, min: 0, max: 100},
		{path: "train.torchrun.args[]", example: "--nnodes=2"},

		{path: "convert.formats", about: "forms in which the weights are written; the last one is released unless verify.format says otherwise", example: "[bf16, w8a8-ascend]", required: true, min: 1, max: 16},
		{path: "convert.formats[]", example: "bf16", choices: Formats()},
		{path: "convert.keep", about: "module name patterns left in bf16, besides the architecture's own list", example: `["*.o_proj"]`, min: 0, max: 1000},
		{path: "convert.keep[]", example: `"*.o_proj"`},
		{path: "convert.rounding", about: "of int8 scales and codes: compatible, as the vendor's tool computes them, or exact, in float32; default compatible", example: "compatible", choices: []string{"compatible", "exact"}},

		{path: "verify.format", about: "which converted form is the candidate; default the last of convert.formats", example: "w8a8-ascend", choices: Formats()},
		{path: "verify.prompts", about: "problems whose prompts are compared; default compare.problems", example: "data/held-out.jsonl", file: regularFile},
		{path: "verify.count", about: "how many prompts", example: "64", min: 2, max: 1e6},
		{path: "verify.top", about: "k of top-k KL; engines give at most 20", example: "20", min: 1, max: 20},
		{path: "verify.alpha", about: "chance of failing a candidate that is inside every margin, in the whole run", example: "0.01", min: 1e-6, max: 0.2},
		{path: "verify.beta", about: "chance of passing a candidate that is outside a margin", example: "0.01", min: 1e-3, max: 0.2},
		{path: "verify.margin.typical", about: "a token's KL over the floor's on the same token, geometric mean, upper bound; 0 = ratio's", example: "1.5", min: 0, max: 1e6},
		{path: "verify.margin.ratio", about: "mean clipped KL, upper bound, over the floor's", example: "20", required: true, open: true, max: 1e6},
		{path: "verify.margin.kl", about: "mean clipped KL in nats, upper bound; 0 = not used", example: "0.01", min: 0, max: 100},
		{path: "verify.margin.delta_nll", about: "|mean difference of negative log-likelihood| in nats, bound farther from zero", example: "0.01", required: true, open: true, max: 100},
		{path: "verify.margin.top1", about: "top-1 agreement, lower bound", example: "0.98", required: true, open: true, max: 1},
		{path: "verify.margin.clip", about: "KL of a token counts at most this", example: "0.1", open: true, max: 100},

		{path: "compare.problems", about: "held-out problems, never trained on", example: "data/held-out.jsonl", required: true, file: regularFile},
		{path: "compare.reward", about: "checker of answers", example: "answer", choices: reward.Names()},
		{path: "compare.non_inferiority", about: "largest loss of greedy accuracy against the float32 checkpoint that is allowed", example: "0.05", required: true, min: 0, max: 1},
		{path: "compare.max_tokens", about: "longest answer; default train.grpo.max_tokens", example: "64", min: 1, max: 1e6},

		{path: "serve.addr", about: "port 0 = any free one", example: "127.0.0.1:8000"},
		{path: "serve.smoke", about: "prompt that the endpoint must answer", example: `"12+34="`, required: true},
		{path: "serve.name", about: "served model name; default the release's", example: "sums", pattern: regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,95}$`), form: "up to 96 letters, digits, dots, slashes, dashes and underscores"},
	}
	all = append(all, optimizerRules("train.sft.optimizer", true)...)
	return append(all, optimizerRules("train.grpo.optimizer", false)...)
}

func optimizerRules(prefix string, required bool) []rule {
	return []rule{
		{path: prefix + ".learning_rate", about: "after warm-up", example: "3e-3", required: required, open: true, max: 1},
		{path: prefix + ".warmup", about: "steps of linear warm-up", example: "30", min: 0, max: 1e9},
		{path: prefix + ".floor", about: "cosine decay ends at this share of the rate; 1 = constant after warm-up", example: "0.2", min: 0, max: 1},
		{path: prefix + ".betas", about: "decay of the moments", example: "[0.9, 0.95]", min: 2, max: 2},
		{path: prefix + ".betas[]", example: "0.9", min: 0, max: 0.999999},
		{path: prefix + ".epsilon", example: "1e-8", open: true, max: 1},
		{path: prefix + ".weight_decay", about: "decoupled", example: "0.1", min: 0, max: 10},
		{path: prefix + ".clip", about: "global gradient norm; 0 = none", example: "1.0", min: 0, max: 1e6},
	}
}

// ruleFor finds the rule of a path in a file, whose list elements are numbered.
func ruleFor(table []rule, path string) (rule, bool) {
	general := elementNumber.ReplaceAllString(path, "[]")
	for _, r := range table {
		if r.path == general {
			return r, true
		}
	}
	return rule{}, false
}

var elementNumber = regexp.MustCompile(`\[\d+\]`)

// leaf is the last name of a path: what stands before the colon.
func leaf(path string) string {
	path = elementNumber.ReplaceAllString(path, "")
	return path[strings.LastIndexByte(path, '.')+1:]
}

// parent is the path without its last name, "" for the file itself.
func parent(path string) string {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}
