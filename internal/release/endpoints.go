package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"tarbert/internal/compare"
	"tarbert/internal/engine"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/serve"
	"tarbert/internal/verify"
)

// The engine that serves the target pool. A spec field comes with the second one.
const servingEngine = "reference"

func verifyInputs(r *run) (any, error) {
	candidate, err := r.candidateDigest()
	if err != nil {
		return nil, err
	}
	prompts, err := optionalDigest(r.spec.Verify.Prompts)
	s := r.spec.Verify
	s.Prompts = ""
	return []any{s, r.spec.Seed, prompts, r.train.FinalDigest, candidate, r.spec.Train.GRPO.MaxTokens}, err
}

func (r *run) candidateDigest() (string, error) {
	dir, err := r.candidate()
	if err != nil {
		return "", err
	}
	return contentDigest(dir)
}

// deployment is an engine to start for a stage.
type deployment struct{ name, dir, format, precision string }

// deploy starts an engine on the target pool, or attaches to one that a killed run left.
func (r *run) deploy(ctx context.Context, stage string, d deployment) (*engine.Deployment, verify.Stack, error) {
	ex, err := r.executorOf(r.plan.Target.Pool)
	if err != nil {
		return nil, verify.Stack{}, err
	}
	eng, ok := r.Engines[servingEngine]
	if !ok {
		return nil, verify.Stack{}, fmt.Errorf("no engine is called %q", servingEngine)
	}
	model := engine.Model{Dir: d.dir, Name: r.spec.Name, Format: d.format}
	dep := engine.Deployer{Executor: ex, Engine: eng, Stage: stage, Progress: r.Progress}
	got, err := dep.Deploy(ctx, r.taskPrefix()+"-"+stage+"-"+d.name, model, r.plan.Target.Device, engine.Options{Precision: d.precision, Threads: r.Threads})
	if err != nil {
		return nil, verify.Stack{}, err
	}
	digest, err := contentDigest(d.dir)
	if err != nil {
		return nil, verify.Stack{}, errors.Join(err, got.Stop(context.WithoutCancel(ctx)))
	}
	stack := verify.Stack{
		Name: d.name, Engine: eng.Name(), Version: r.Version, Precision: d.precision, Format: d.format,
		Device: r.plan.Target.Device.Model, Digest: digest,
	}
	return got, stack, nil
}

// stopAll ends deployments; what a stage started must not outlive it.
func stopAll(ctx context.Context, deps []*engine.Deployment) error {
	var errs []error
	for _, d := range deps {
		errs = append(errs, d.Stop(context.WithoutCancel(ctx)))
	}
	return errors.Join(errs...)
}

func actVerify(ctx context.Context, r *run) (out outcome, err error) {
	candidate, err := r.candidate()
	if err != nil {
		return outcome{}, err
	}
	var deps []*engine.Deployment
	defer func() { err = errors.Join(err, stopAll(ctx, deps)) }()
	sides := map[string]verify.Side{}
	for _, d := range []deployment{
		{"reference", r.train.Final, "f32", "f32"},
		{"floor", r.train.Final, "f32", "bf16"},
		{"candidate", candidate, r.format(), precisionOf(r.format())},
	} {
		dep, stack, err := r.deploy(ctx, "verify", d)
		if err != nil {
			return outcome{}, err
		}
		deps = append(deps, dep)
		sides[d.name] = verify.Side{Stack: stack, Scorer: dep.Client()}
	}
	prompts, from, err := r.verifyPrompts(ctx, deps[0].Client())
	if err != nil {
		return outcome{}, err
	}
	rep, err := verify.Run(ctx, verify.Input{
		Reference: sides["reference"], Candidate: sides["candidate"], Floor: sides["floor"],
		Prompts: prompts, From: from, Spec: r.spec.Verify, Typical: r.spec.Verify.Margin.Typical,
		Seed: r.spec.Seed, OutDir: r.stageDir, Now: r.Now, Progress: r.Progress,
	})
	if err != nil {
		return outcome{}, err
	}
	r.verify = rep
	line := fmt.Sprintf("KL %.2e", rep.KL.Value)
	if rep.Ratio != nil {
		line += fmt.Sprintf(", %.1f × the floor", rep.Ratio.Value)
	}
	line += fmt.Sprintf(" · top-1 %.2f %% · %d tokens", 100*rep.Top1.Value, rep.Tokens)
	return outcome{report: rep, gate: rep.Gate, line: line, binds: []binding{{"verify-evidence", filepath.Join(r.stageDir, verify.EvidenceFile)}}}, nil
}

// precisionOf is what an engine computes in for a stored format.
func precisionOf(format string) string {
	if format == "w8a8-ascend" {
		return "w8a8"
	}
	return "bf16"
}

// verifyPrompts are the spec's prompts, each continued by the reference at
// temperature 1, and where each continuation begins: only what the reference
// wrote is judged.
func (r *run) verifyPrompts(ctx context.Context, reference *engine.Client) (prompts [][]int, from []int, err error) {
	tok, err := tokenizer.Load(r.train.Final)
	if err != nil {
		return nil, nil, err
	}
	problems, err := reward.ReadProblems(r.spec.Verify.Prompts)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range problems[:min(r.spec.Verify.Count, len(problems))] {
		ids := tok.Encode(p.Prompt)
		prompts, from = append(prompts, ids), append(from, len(ids))
	}
	prompts, err = verify.BuildPrompts(ctx, reference, prompts, verify.PromptOptions{
		Seed: r.spec.Seed, MaxTokens: r.spec.Train.GRPO.MaxTokens, Concurrency: 64, Progress: r.Progress,
	})
	return prompts, from, err
}

func compareInputs(r *run) (any, error) {
	candidate, err := r.candidateDigest()
	if err != nil {
		return nil, err
	}
	problems, err := optionalDigest(r.spec.Compare.Problems)
	if err != nil {
		return nil, err
	}
	sft, err := optionalDigest(r.train.SFT)
	s := r.spec.Compare
	s.Problems = ""
	return []any{s, r.spec.Seed, problems, r.train.FinalDigest, candidate, sft}, err
}

// The names of the compared models, released first.
const (
	nameReleased = "released"
	nameTrained  = "after GRPO (f32)"
	nameSFT      = "after SFT (f32)"
)

func actCompare(ctx context.Context, r *run) (out outcome, err error) {
	candidate, err := r.candidate()
	if err != nil {
		return outcome{}, err
	}
	list := []struct {
		name string
		deployment
	}{
		{nameReleased, deployment{"released", candidate, r.format(), precisionOf(r.format())}},
		{nameTrained, deployment{"trained", r.train.Final, "f32", "f32"}},
	}
	if r.train.SFT != "" {
		list = append(list, struct {
			name string
			deployment
		}{nameSFT, deployment{"sft", r.train.SFT, "f32", "f32"}})
	}
	var deps []*engine.Deployment
	defer func() { err = errors.Join(err, stopAll(ctx, deps)) }()
	in := compare.Input{Spec: r.spec.Compare, Seed: r.spec.Seed, Baseline: nameTrained, OutDir: r.stageDir, Parallel: 64, Progress: r.Progress}
	for _, c := range list {
		dep, _, err := r.deploy(ctx, "compare", c.deployment)
		if err != nil {
			return outcome{}, err
		}
		deps = append(deps, dep)
		in.Candidates = append(in.Candidates, compare.Candidate{Name: c.name, Complete: Completer(dep.Client())})
	}
	rep, err := compare.Run(ctx, in)
	if err != nil {
		return outcome{}, err
	}
	r.compare = rep
	line := fmt.Sprintf("%d held-out problems", rep.Problems)
	if g := rep.Candidates[0].Greedy; g != nil {
		line += fmt.Sprintf(" · released greedy %.1f %%", 100*g.Value)
	}
	if p := rep.Candidates[0].Pass1; p != nil {
		line += fmt.Sprintf(", pass@1 %.1f %%", 100*p.Value)
	}
	return outcome{report: rep, gate: rep.Gate, line: line, binds: []binding{{"compare-outcomes", rep.Outcomes}}}, nil
}

// Completer answers problems through an endpoint.
func Completer(c *engine.Client) func(context.Context, string, compare.Sampling) (compare.Completion, error) {
	return func(ctx context.Context, prompt string, s compare.Sampling) (compare.Completion, error) {
		got, err := c.Complete(ctx, engine.CompletionRequest{
			Prompt: prompt, MaxTokens: s.MaxTokens, Temperature: s.Temperature, Seed: &s.Seed,
		})
		if err != nil {
			return compare.Completion{}, err
		}
		if len(got) != 1 {
			return compare.Completion{}, fmt.Errorf("%d completions for one prompt", len(got))
		}
		return compare.Completion{Text: got[0].Text, Truncated: got[0].FinishReason == "length"}, nil
	}
}

func serveInputs(r *run) (any, error) {
	candidate, err := r.candidateDigest()
	return []any{r.spec.Serve.Name, r.spec.Serve.Smoke, candidate, r.boundDigests()}, err
}

// boundDigests is everything that the certificate binds, by name.
func (r *run) boundDigests() map[string]string {
	m := map[string]string{}
	for _, a := range r.bound {
		m[a.Name] = a.Digest
	}
	return m
}

func actServe(ctx context.Context, r *run) (outcome, error) {
	if err := r.certify(ctx); err != nil {
		return outcome{}, fmt.Errorf("certificate: %w", err)
	}
	candidate, err := r.candidate()
	if err != nil {
		return outcome{}, err
	}
	ex, err := r.executorOf(r.plan.Target.Pool)
	if err != nil {
		return outcome{}, err
	}
	r.Progress.Report(progress.Update{Stage: "serve", Note: "starting the certified model"})
	rep, live, err := serve.Run(ctx, serve.Input{
		Executor: ex, Engine: r.Engines[servingEngine], TaskName: r.taskPrefix() + "-serve",
		Model:  engine.Model{Dir: candidate, Name: r.servedName(), Format: r.format()},
		Device: r.plan.Target.Device, Precision: precisionOf(r.format()), Threads: r.Threads,
		Spec: r.spec.Serve, Certificate: r.certificatePath(), CheckCertificate: r.checkCertificate,
		Up: r.options.Up, Now: r.Now, Progress: r.Progress,
	})
	if err != nil {
		return outcome{}, err
	}
	r.serve, r.live = rep, live
	return outcome{report: rep, gate: rep.Gate, line: fmt.Sprintf("%s answered %q · %.0f tokens/s", r.format(), rep.Answer, rep.TokensPerSecond)}, nil
}

func (r *run) servedName() string {
	if r.spec.Serve.Name != "" {
		return r.spec.Serve.Name
	}
	return r.spec.Name
}

// allPassed says whether every stage so far passed: only then is there something to certify.
func (r *run) allPassed() error {
	for _, s := range r.done {
		if s.Gate.Verdict != gate.Pass {
			return fmt.Errorf("stage %s: %s", s.Stage, s.Gate.Verdict)
		}
	}
	return nil
}
