package spec

import (
	"time"

	"tarbert/internal/device"
)

// Release is the whole file. Paths in it are relative to the file's folder;
// Load makes them absolute.
type Release struct {
	Name string `json:"name"`
	Seed uint64 `json:"seed"`

	Pools   []Pool   `json:"pools"`
	Policy  []Clause `json:"policy"`
	Label   Label    `json:"label"`
	Plan    Plan     `json:"plan"`
	Qualify Qualify  `json:"qualify"`
	Train   Train    `json:"train"`
	Convert Convert  `json:"convert"`
	Verify  Verify   `json:"verify"`
	Compare Compare  `json:"compare"`
	Serve   Serve    `json:"serve"`

	// Dir is the folder of the file and File its path; both absolute, neither in the file.
	Dir  string `json:"-"`
	File string `json:"-"`
}

// Role is what a pool may be used for.
type Role string

// The roles. Nothing says that one vendor trains and another serves.
const (
	Preferred Role = "preferred" // training, first choice
	Fallback  Role = "fallback"  // training, when the preferred pool is not fit or not there
	Reference Role = "reference" // judge
	Target    Role = "target"    // serving
)

// Pool is devices of one kind behind one executor.
type Pool struct {
	Name     string        `json:"name"`
	Vendor   device.Vendor `json:"vendor"`
	Executor string        `json:"executor"` // default "local"
	Site     string        `json:"site"`     // where it stands, for the policy; empty = not said
	Roles    []Role        `json:"roles"`
	Price    float64       `json:"price"` // of one device for an hour; 0 = money is not counted
	// Trainer and Command say what trains in this pool where it is not what the
	// train section says: two kinds of chips are started by two scripts.
	Trainer string   `json:"trainer,omitempty"`
	Command []string `json:"command,omitempty"`
	// TFLOPS is the dense peak of one device in what its trainer computes in, MFU
	// the least and the greatest share of it that training may reach: for a chip
	// or a model of which plan's own tables know too little.
	TFLOPS float64   `json:"tflops,omitempty"`
	MFU    []float64 `json:"mfu,omitempty"`
}

// Label configures the label stage.
type Label struct {
	// Annotations is a JSON Lines file of {"id","prompt","completion","votes":{"annotator":"good"|"bad"|null}}.
	Annotations string    `json:"annotations"`
	Accept      string    `json:"accept"` // adjudicated label that enters the dataset; default "good"
	Agreement   Agreement `json:"agreement"`
}

// Agreement is the label gate: the bootstrap lower bound of Krippendorff's α.
type Agreement struct {
	Alpha      float64 `json:"alpha"`      // the lower bound must reach this; default 0.667
	Confidence float64 `json:"confidence"` // one-sided; default 0.95
	Resamples  int     `json:"resamples"`  // default 1000
}

// Plan configures the plan stage.
type Plan struct {
	Deadline Duration `json:"deadline"` // on training time
}

// Qualify configures the qualify stage.
type Qualify struct {
	TwinSteps int `json:"twin_steps"` // default 30
	// GradientTolerance is the largest relative error of a directional
	// derivative against float64 finite differences; default 1e-2.
	GradientTolerance float64 `json:"gradient_tolerance"`
	// Waivers let the release go on past checks that stayed inconclusive. A check
	// that failed cannot be waived.
	Waivers []CheckWaiver `json:"waivers,omitempty"`
}

// CheckWaiver lets some of qualify's checks stay inconclusive. One that was used goes
// into the certificate.
type CheckWaiver struct {
	Checks []string  `json:"checks"` // by name: "parity", "convergence twin", …
	By     string    `json:"by"`
	Until  time.Time `json:"until,omitzero"` // the last day counts; zero = without end
	Why    string    `json:"why"`
}

// Train configures the train stage. It is also, paths resolved, the recipe
// that a trainer reads from TARBERT_RECIPE (see Recipe).
type Train struct {
	Trainer    string     `json:"trainer"`           // "reference" (default), "torchrun" or "command"
	Command    []string   `json:"command,omitempty"` // of trainer "command"; elements that begin with ./ or ../ are files from the release file's folder
	Model      string     `json:"model"`             // directory with config.json, tokenizer.json, chat template
	DType      string     `json:"dtype"`             // "float32"
	Checkpoint Checkpoint `json:"checkpoint"`
	SFT        SFT        `json:"sft"`
	GRPO       GRPO       `json:"grpo"`
	// Restarts is how many attempts without progress end the stage; default 3.
	Restarts  int       `json:"restarts"`
	Supervise Supervise `json:"supervise"`
	Fallback  Budgets   `json:"fallback"`
	// Reference is what only the reference trainer can do; all of it off by default.
	Reference ReferenceTrainer `json:"reference"`
	// Torchrun is where and how the torchrun trainer runs.
	Torchrun Torchrun `json:"torchrun"`
}

// Torchrun holds the torchrun trainer's own settings. They change how a run is
// computed and not what it is: a checkpoint resumes under others.
type Torchrun struct {
	Python        string   `json:"python"`        // interpreter with torch, transformers and safetensors; default "python3"
	NProc         int      `json:"nproc"`         // ranks on the machine, one per chip; default 1
	Device        string   `json:"device"`        // "auto" (the first there is of npu, cuda, cpu), "cuda", "npu", "cpu"
	Parallel      string   `json:"parallel"`      // of several ranks: "ddp" repeats the weights, "fsdp2" spreads them
	Precision     string   `json:"precision"`     // of the arithmetic: "float32", "bfloat16" (autocast); weights and moments stay float32
	MicroTokens   int      `json:"micro_tokens"`  // that go through the model at once on a rank, padding included; default 4096
	Deterministic bool     `json:"deterministic"` // PyTorch's deterministic algorithms: the same bits again, slower
	Args          []string `json:"args"`          // further arguments to torchrun
}

// Supervise says what the supervisor takes for trouble. It changes no result.
type Supervise struct {
	// HangFloor: nothing is taken for hung sooner; default 10s. What a section took before sets the limit above it.
	HangFloor  Duration `json:"hang_floor"`
	FirstLimit Duration `json:"first_limit"` // of a section's first unit, while there is no history; default 30m
	UnitLimit  Duration `json:"unit_limit"`  // of a later one, while there is little; default 5m
	// AdaptInterval lets checkpoint.every follow the measured cost of a save and rate of failures; default false.
	AdaptInterval bool `json:"adapt_interval"`
	// LogPattern reads steps from the log of a trainer that does not speak the contract:
	// a regular expression with groups step, loss, grad_norm. The usual logs are known without.
	LogPattern string `json:"log_pattern"`
}

// Budgets are what the pool in use may cost before the fallback pool is
// considered. They are fixed before the run; a zero is no limit.
type Budgets struct {
	Authorized  bool     `json:"authorized"`   // switch without asking a person
	CleanSteps  int      `json:"clean_steps"`  // in a row without interruption; default 1000
	CleanWithin Duration `json:"clean_within"` // until the first that many
	// Preference is how much later the finish may be in the pool in use before
	// the other is the better one; DayWorth what a day earlier is worth, which
	// turns a difference of cost into time.
	Preference Duration `json:"preference"`
	DayWorth   float64  `json:"day_worth"`
	Hangs      int      `json:"hangs"`    // that nothing explains
	Breaches   int      `json:"breaches"` // parity breaches in a row
	ETTR       float64  `json:"ettr"`     // floor of the effective training time ratio over window
	Window     Duration `json:"window"`   // default 72h
}

// Set says whether any budget is.
func (b Budgets) Set() bool {
	return b.CleanWithin > 0 || b.Hangs > 0 || b.Breaches > 0 || b.ETTR > 0
}

// ReferenceTrainer holds the reference trainer's own settings; the zero value
// switches everything off.
type ReferenceTrainer struct {
	SFT  ReferenceSFT  `json:"sft"`
	GRPO ReferenceGRPO `json:"grpo"`
}

// ReferenceSFT adds to the loss of supervised fine-tuning.
type ReferenceSFT struct {
	ZLoss       float64 `json:"z_loss"`        // factor of the mean squared log-sum-exp of the logits (PaLM: 1e-4)
	RouterZLoss float64 `json:"router_z_loss"` // the same of the router's logits (ST-MoE: 1e-3)
}

// ReferenceGRPO adds to reinforcement learning.
type ReferenceGRPO struct {
	ZLoss       float64 `json:"z_loss"`
	RouterZLoss float64 `json:"router_z_loss"`
	// RolloutPrecision samples from a copy rounded as another chip's engine would: "f32", "bf16", "w8a8".
	RolloutPrecision string     `json:"rollout_precision"`
	RoutingReplay    bool       `json:"routing_replay"` // train with the experts that the rollout chose (R3)
	Correction       Correction `json:"correction"`
}

// Correction weighs a rollout's tokens by how far the policy that drew them is
// from the trainer's: truncated and masked importance sampling.
type Correction struct {
	Truncate      float64 `json:"truncate"`       // largest weight; 0 = off
	TruncateLevel string  `json:"truncate_level"` // "token", "sequence", "geometric"
	MaskLow       float64 `json:"mask_low"`
	MaskHigh      float64 `json:"mask_high"` // weights outside [low, high] are 0; 0 = off
	MaskLevel     string  `json:"mask_level"`
}

// Checkpoint says how often and how many are kept.
type Checkpoint struct {
	Every int `json:"every"` // steps; default 50
	Keep  int `json:"keep"`  // newest ones kept besides the last of each stage; default 3
}

// Optimizer is AdamW with linear warm-up, then cosine decay to Floor × LearningRate.
type Optimizer struct {
	LearningRate float64    `json:"learning_rate"`
	Warmup       int        `json:"warmup"`
	Floor        float64    `json:"floor"` // share of the rate at the last step; 1 = constant after warm-up
	Betas        [2]float64 `json:"betas"`
	Epsilon      float64    `json:"epsilon"`
	WeightDecay  float64    `json:"weight_decay"` // decoupled
	Clip         float64    `json:"clip"`         // global gradient norm; 0 = none
}

// SFT is supervised fine-tuning on the label stage's dataset.
type SFT struct {
	Steps     int       `json:"steps"`
	Batch     int       `json:"batch"` // examples per step
	Optimizer Optimizer `json:"optimizer"`
	// RouterBias is the step of the auxiliary-loss-free load balancing (DeepSeek-V3 §2.1.2); 0 = off.
	RouterBias float64 `json:"router_bias"`
}

// GRPO is reinforcement learning with a verifiable reward.
type GRPO struct {
	Steps       int       `json:"steps"`
	Problems    string    `json:"problems"` // JSON Lines of reward.Problem
	Reward      string    `json:"reward"`   // checker's name; default "answer"
	Prompts     int       `json:"prompts"`  // per step
	Samples     int       `json:"samples"`  // per prompt
	MaxTokens   int       `json:"max_tokens"`
	Temperature float64   `json:"temperature"`
	ClipLow     float64   `json:"clip_low"`
	ClipHigh    float64   `json:"clip_high"`
	Objective   string    `json:"objective"` // "grpo" or "gspo"
	Optimizer   Optimizer `json:"optimizer"`
}

// Recipe is the file that TARBERT_RECIPE names: what the trainer is to do,
// every path absolute.
type Recipe struct {
	Seed    uint64 `json:"seed"`
	Dataset string `json:"dataset"` // the label stage's JSON Lines: {"id","prompt","completion"}
	Train   Train  `json:"train"`
	Threads int    `json:"threads"`
	// Reference is Train.Reference once more, where the reference trainer looks for it.
	Reference ReferenceTrainer `json:"reference"`
}

// Steps is the run's target step: SFT steps then GRPO steps, counted through.
func (r Recipe) Steps() int { return r.Train.SFT.Steps + r.Train.GRPO.Steps }

// Convert configures the convert stage.
type Convert struct {
	Formats []string `json:"formats"` // e.g. ["bf16", "w8a8-ascend"]
	Keep    []string `json:"keep"`    // module name patterns left in bf16, besides the architecture's own list
	// Rounding of int8: compatible, as the vendor's tool divides, or exact, in float32.
	Rounding string `json:"rounding"`
}

// Verify configures the verify stage.
type Verify struct {
	Format  string `json:"format"`  // which converted form is the candidate; default the last of convert.formats
	Prompts string `json:"prompts"` // problems file whose prompts, with on-policy continuations, are compared
	Count   int    `json:"count"`   // how many of them
	Top     int    `json:"top"`     // k of top-k KL; default 20
	// Alpha is the chance of failing a candidate that is inside every margin, in
	// the whole run; Beta of passing one that is outside. Default 0.01 each.
	Alpha  float64 `json:"alpha"`
	Beta   float64 `json:"beta"`
	Margin Margin  `json:"margin"`
}

// Margin is how far the candidate may be from the reference.
type Margin struct {
	// Typical is the geometric mean of a token's KL over the floor's KL on the
	// same token, upper bound: it sees small faults that spread over all tokens; 0 = ratio's.
	Typical  float64 `json:"typical"`
	Ratio    float64 `json:"ratio"`     // mean clipped KL, upper bound, over the floor's
	KL       float64 `json:"kl"`        // mean clipped KL in nats, upper bound; 0 = not used
	DeltaNLL float64 `json:"delta_nll"` // |mean ΔNLL| in nats, bound farther from zero
	Top1     float64 `json:"top1"`      // top-1 agreement, lower bound
	Clip     float64 `json:"clip"`      // KL per token is clipped at this; default 0.1
}

// Compare configures the compare stage.
type Compare struct {
	Problems string `json:"problems"` // held-out
	Reward   string `json:"reward"`   // default "answer"
	// NonInferiority is the largest loss of greedy accuracy against the f32 checkpoint that is allowed.
	NonInferiority float64 `json:"non_inferiority"`
	MaxTokens      int     `json:"max_tokens"`
}

// Serve configures the serve stage.
type Serve struct {
	Addr  string `json:"addr"`  // default 127.0.0.1:8000; port 0 = any free one
	Smoke string `json:"smoke"` // prompt that the endpoint must answer
	Name  string `json:"name"`  // served model name; default the release's
}
