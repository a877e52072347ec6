package release

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"tarbert/internal/certificate"
	"tarbert/internal/compare"
	"tarbert/internal/convert"
	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/executor"
	"tarbert/internal/gate"
	"tarbert/internal/label"
	"tarbert/internal/plan"
	"tarbert/internal/qualify"
	"tarbert/internal/serve"
	"tarbert/internal/spec"
	"tarbert/internal/store"
	"tarbert/internal/train"
	"tarbert/internal/verify"
)

// run is one run of a release: what the stages have found so far.
type run struct {
	Deps
	spec     *spec.Release
	options  Options
	id       string
	dir      string // releases/ID below the home
	stageDir string // of the running stage and its input digest
	records  []store.Record
	done     []StageResult
	bound    []certificate.Bound

	label   *label.Report
	nodes   []device.Node
	plan    *plan.Plan
	qualify *qualify.Report
	train   *train.Report
	convert *convert.RunReport
	verify  *verify.Report
	compare *compare.Report
	serve   *serve.Report
	live    *engine.Deployment // with Up: the endpoint that stays
}

// outcome is what a stage's act ends with.
type outcome struct {
	report any
	gate   gate.Result
	line   string    // for people: what to remember of it
	text   string    // a table for people
	binds  []binding // what later stages and the certificate rest on
}

// stage is a step of the release.
type stage struct {
	name    string
	version int // raise it when the stage's result changes for the same inputs
	inputs  func(*run) (any, error)
	act     func(context.Context, *run) (outcome, error)
	load    func(*run, []byte) error
	always  func(*run) bool // run even if it passed before
}

// stages lists the eight in order.
func stages() []stage {
	return []stage{
		{name: "label", version: 1, inputs: labelInputs, act: actLabel, load: loadInto(func(r *run) **label.Report { return &r.label })},
		{name: "plan", version: 2, inputs: planInputs, act: actPlan, load: loadInto(func(r *run) **plan.Plan { return &r.plan })},
		{name: "qualify", version: 1, inputs: qualifyInputs, act: actQualify, load: loadInto(func(r *run) **qualify.Report { return &r.qualify })},
		{name: "train", version: trainVersion, inputs: trainInputs, act: actTrain, load: loadInto(func(r *run) **train.Report { return &r.train })},
		{name: "convert", version: 1, inputs: convertInputs, act: actConvert, load: loadInto(func(r *run) **convert.RunReport { return &r.convert })},
		{name: "verify", version: 1, inputs: verifyInputs, act: actVerify, load: loadInto(func(r *run) **verify.Report { return &r.verify })},
		{name: "compare", version: 1, inputs: compareInputs, act: actCompare, load: loadInto(func(r *run) **compare.Report { return &r.compare })},
		{name: "serve", version: 1, inputs: serveInputs, act: actServe, load: loadInto(func(r *run) **serve.Report { return &r.serve }),
			always: func(r *run) bool { return r.options.Up }},
	}
}

// loadInto puts a kept report back where the run expects it.
func loadInto[T any](field func(*run) **T) func(*run, []byte) error {
	return func(r *run, b []byte) error {
		v := new(T)
		if err := json.Unmarshal(b, v); err != nil {
			return err
		}
		*field(r) = v
		return nil
	}
}

func labelInputs(r *run) (any, error) {
	digest, err := store.FileDigest(r.spec.Label.Annotations)
	s := r.spec.Label
	s.Annotations = ""
	return []any{s, digest, r.spec.Seed}, err
}

func actLabel(ctx context.Context, r *run) (outcome, error) {
	rep, err := label.Run(ctx, label.Input{Spec: r.spec.Label, Seed: r.spec.Seed, OutDir: r.stageDir})
	if err != nil {
		return outcome{}, err
	}
	r.label = rep
	line := fmt.Sprintf("%d items, %d accepted", rep.Items, rep.Accepted)
	if rep.Alpha != nil && rep.Lower != nil {
		line += fmt.Sprintf(" · α %.3f ≥ %.3f at %.0f %%", *rep.Alpha, *rep.Lower, 100*rep.Confidence)
	}
	return outcome{report: rep, gate: rep.Gate, line: line, binds: []binding{{"dataset", rep.Dataset.Path}}}, nil
}

// inventory asks every driver once. A vendor whose tool is missing is absent, not an error.
func (r *run) inventory(ctx context.Context) ([]device.Node, error) {
	if r.nodes != nil {
		return r.nodes, nil
	}
	var nodes []device.Node
	for _, name := range sortedKeys(r.Executors) {
		n, err := r.Executors[name].Nodes(ctx)
		if err != nil {
			return nil, fmt.Errorf("inventory of executor %s: %w", name, err)
		}
		nodes = append(nodes, n...)
	}
	r.nodes = nodes
	return nodes, nil
}

func planInputs(r *run) (any, error) {
	nodes, err := r.inventory(context.Background())
	if err != nil {
		return nil, err
	}
	model, err := optionalDigest(r.spec.Train.Model)
	if err != nil {
		return nil, err
	}
	return []any{poolsWithoutCommands(r.spec.Pools), r.spec.Plan, trainWithoutPaths(r.spec.Train), nodes, model, r.label.Dataset.Digest, plan.Permissions(r.spec, r.Now())}, nil
}

// trainWithoutPaths is the recipe with contents in place of paths.
func trainWithoutPaths(t spec.Train) spec.Train {
	t.Model, t.GRPO.Problems, t.Command = "", "", nil
	t.Supervise, t.Fallback = spec.Supervise{}, spec.Budgets{} // how a run is watched is no part of what it makes
	return t
}

// poolsWithoutCommands is the pools as the plan sees them: which trainer, not how it is started.
func poolsWithoutCommands(pools []spec.Pool) []spec.Pool {
	out := slices.Clone(pools)
	for i := range out {
		out[i].Command = nil
	}
	return out
}

func actPlan(ctx context.Context, r *run) (outcome, error) {
	nodes, err := r.inventory(ctx)
	if err != nil {
		return outcome{}, err
	}
	shape, err := plan.ReadShape(r.spec.Train.Model)
	if err != nil {
		return outcome{}, err
	}
	tokens, err := r.tokenStatistics()
	if err != nil {
		return outcome{}, err
	}
	r.plan = plan.Make(r.spec, nodes, plan.Measured{GFLOPS: r.Measure(r.Threads), Model: shape, Tokens: tokens, At: r.Now()})
	p := r.plan
	rejected := 0
	for _, o := range p.Options {
		if o.Rejected != "" {
			rejected++
		}
	}
	line := "no pool can train"
	if p.Train != nil {
		line = fmt.Sprintf("train on %s · %s · %d options rejected", p.Train.Pool, p.Estimate(), rejected)
	}
	return outcome{report: p, gate: p.Gate, line: line, text: p.Table()}, nil
}

func qualifyInputs(r *run) (any, error) {
	model, err := optionalDigest(r.spec.Train.Model)
	if err != nil {
		return nil, err
	}
	settings := r.spec.Qualify
	settings.Waivers = qualify.InForce(settings.Waivers, r.Now())
	in := []any{settings, r.plan.Train, trainWithoutPaths(r.spec.Train), model, r.label.Dataset.Digest, r.spec.Seed}
	if name, command := r.spec.TrainerOf(r.plan.Train.Pool); name != spec.TrainerReference {
		program, err := programOf(name, command)
		return append(in, program, r.spec.Plan), err
	}
	return in, nil
}

func actQualify(ctx context.Context, r *run) (outcome, error) {
	in := qualify.Input{
		Pool: r.plan.Train.Pool, Device: r.plan.Train.Device, Recipe: r.recipe(), Settings: r.spec.Qualify,
		Dir: r.stageDir, Now: r.Now, Progress: r.Progress,
	}
	in.Settings.Waivers = qualify.InForce(in.Settings.Waivers, r.Now())
	var err error
	if in.Trainer, err = r.triedTrainer(); err != nil {
		return outcome{}, err
	}
	rep, err := qualify.Run(ctx, in)
	if err != nil {
		return outcome{}, err
	}
	r.qualify = rep
	line := fmt.Sprintf("pool %s is fit for %s", rep.Pool, rep.DType)
	if rep.Speed != nil {
		line += fmt.Sprintf(" · %.0f tokens/s", rep.Speed.TokensPerSecond)
	}
	if n := len(rep.Unchecked); n > 0 {
		line += fmt.Sprintf(" · %d checks waived", n)
	}
	if !rep.Gate.Passed() {
		line = rep.Gate.Reason
	}
	return outcome{report: rep, gate: rep.Gate, line: line, text: rep.Text()}, nil
}

const trainVersion = 1

func trainInputs(r *run) (any, error) {
	model, err := optionalDigest(r.spec.Train.Model)
	if err != nil {
		return nil, err
	}
	problems, err := optionalDigest(r.spec.Train.GRPO.Problems)
	if err != nil {
		return nil, err
	}
	in := []any{trainWithoutPaths(r.spec.Train), r.spec.Seed, model, problems, r.label.Dataset.Digest, r.plan.Train.Pool}
	program, err := programOf(r.spec.TrainerOf(r.plan.Train.Pool))
	if err != nil {
		return nil, err
	}
	if len(program) > 1 || program[0] != r.spec.Train.Trainer { // else trainWithoutPaths has it
		in = append(in, program)
	}
	changed, err := r.changedFallback(in)
	if err != nil || changed == nil {
		return in, err
	}
	return append(in, changed), nil
}

// changedFallback is the program of the pool in which an earlier run on these
// inputs ended, if it is no longer the one that ended it. Until a run has ended
// with it, a fallback's program may be mended without the run's beginning anew.
func (r *run) changedFallback(in []any) ([]string, error) {
	digest, err := digestOf("train", trainVersion, in)
	if err != nil {
		return nil, err
	}
	for i := len(r.records) - 1; i >= 0; i-- {
		rec := r.records[i]
		var past StageResult
		var rep train.Report
		if rec.Stage != "train" || rec.Event != "passed" || rec.Digest != digest || json.Unmarshal(rec.Data, &past) != nil {
			continue
		}
		b, err := os.ReadFile(past.Evidence)
		if err != nil || json.Unmarshal(b, &rep) != nil || rep.Pool == r.plan.Train.Pool {
			return nil, nil // damaged: it will not be reused as it is
		}
		now, err := programOf(r.spec.TrainerOf(rep.Pool))
		if err != nil || slices.Equal(now, rep.Program) {
			return nil, err
		}
		return now, nil
	}
	return nil, nil
}

func (r *run) recipe() spec.Recipe {
	return spec.Recipe{Seed: r.spec.Seed, Dataset: r.label.Dataset.Path, Train: r.spec.Train, Threads: r.Threads, Reference: r.spec.Train.Reference}
}

func actTrain(ctx context.Context, r *run) (outcome, error) {
	in, err := r.training()
	if err != nil {
		return outcome{}, err
	}
	rep, err := train.Run(ctx, in)
	if err != nil {
		return outcome{}, err
	}
	r.train = rep
	line := fmt.Sprintf("%d steps, %d tokens at %.0f tokens/s", rep.Steps, rep.Tokens, rep.TokensPerSecond)
	if n := len(rep.Attempts); n > 1 {
		line += fmt.Sprintf(" · %d attempts", n)
	}
	out := outcome{report: rep, gate: rep.Gate, line: line, text: rep.Text()}
	if rep.Final != "" {
		out.binds = append(out.binds, binding{"checkpoint", rep.Final})
	}
	if rep.SFT != "" {
		out.binds = append(out.binds, binding{"sft-checkpoint", rep.SFT})
	}
	return out, nil
}

func convertInputs(r *run) (any, error) {
	return []any{r.spec.Convert, r.train.FinalDigest}, nil
}

func actConvert(ctx context.Context, r *run) (outcome, error) {
	rep, err := convert.Run(ctx, convert.Input{Checkpoint: r.train.Final, Spec: r.spec.Convert, OutDir: r.stageDir, Progress: r.Progress})
	if err != nil {
		return outcome{}, err
	}
	r.convert = rep
	out := outcome{report: rep, gate: rep.Gate}
	for _, o := range rep.Outputs {
		out.binds = append(out.binds, binding{"model-" + o.Format, o.Dir})
		if o.Format == r.format() {
			out.line = fmt.Sprintf("%s: %s → %s, every tensor accounted for, worst SQNR %.1f dB", o.Format, sizeText(rep.SourceBytes), sizeText(o.Bytes), o.WorstSQNR)
		}
	}
	return out, nil
}

// format is the converted form that is verified, compared and served.
func (r *run) format() string {
	if f := r.spec.Verify.Format; f != "" {
		return f
	}
	return r.spec.Convert.Formats[len(r.spec.Convert.Formats)-1]
}

// rounding of the released form's int8 weights; empty where it has none.
func (r *run) rounding() string {
	for _, o := range r.convert.Outputs {
		if o.Format == r.format() {
			return string(o.Rounding)
		}
	}
	return ""
}

// candidate is the directory of the released form.
func (r *run) candidate() (string, error) {
	for _, o := range r.convert.Outputs {
		if o.Format == r.format() {
			return o.Dir, nil
		}
	}
	return "", fmt.Errorf("no conversion gave format %q", r.format())
}

func (r *run) executorOf(pool string) (executor.Executor, error) {
	for _, p := range r.spec.Pools {
		if p.Name != pool {
			continue
		}
		ex, ok := r.Executors[p.Executor]
		if !ok {
			return nil, fmt.Errorf("pool %s: no executor is called %q; there are: %v", pool, p.Executor, sortedKeys(r.Executors))
		}
		return ex, nil
	}
	return nil, fmt.Errorf("no pool is called %q", pool)
}

// taskPrefix names the running stage's tasks: a stage with other inputs must not meet this one's tasks.
func (r *run) taskPrefix() string {
	return r.id + "-" + short(filepath.Base(r.stageDir)[len(filepath.Base(r.stageDir))-8:])
}

func sizeText(n int64) string { return fmt.Sprintf("%.2f MB", float64(n)/1e6) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
