package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/verify"
)

// explainPrompts is how many of the run's prompts an experiment asks.
const explainPrompts = 32

// explain looks for the cause of a failed verification by experiments, and
// prints each as it ends. On directories it swaps tensors; where it is told how
// the candidate is started, it starts it again with one thing changed.
func (s *sides) explain(ctx context.Context, rep *verify.Report) error {
	if rep.Gate.Verdict != gate.Fail || len(s.made.prompts) == 0 {
		fmt.Fprintln(s.Out, "\nexplain: nothing failed, so there is nothing to look for")
		return nil
	}
	if s.reference.dir != "" && s.candidate.dir != "" {
		found, err := s.explainFiles(ctx)
		if err != nil || found {
			return err
		}
		return s.explainEngine(ctx, rep, []string{s.selfPath(), "serve", s.candidate.dir, "--addr", "127.0.0.1:{port}"})
	}
	if s.flags.explainWith == "" {
		fmt.Fprintln(s.Out, "\nexplain: say how the candidate is started with --explain-with \"COMMAND … {port}\", and it is tried with other flags; or give both model directories")
		return nil
	}
	argv, err := engine.SplitCommand(s.flags.explainWith)
	if err != nil {
		return badUsage("--explain-with: %w", err)
	}
	return s.explainEngine(ctx, rep, argv)
}

func (s *sides) selfPath() string { return filepath.Join(s.deps.Home, "bin", "tarbert") }

// explainFiles swaps layers, modules and tensors between the two directories.
func (s *sides) explainFiles(ctx context.Context) (found bool, err error) {
	fmt.Fprintln(s.Out, "\nexplain: the reference's parts put into the candidate's files, both computed in float32")
	show := s.parts()
	n := min(explainPrompts, len(s.made.prompts))
	got, err := verify.Explain(ctx, verify.ExplainInput{
		Reference: s.reference.dir, Candidate: s.candidate.dir, Prompts: s.made.prompts[:n], From: s.made.from[:n], WorkDir: s.out, Threads: s.cores(),
		Progress: func(tried int, what string) {
			show.progress(progress.Update{Stage: "explain", Done: float64(tried), Unit: "experiments", Note: what})
		},
	})
	show.close()
	if err != nil {
		return false, err
	}
	rows := [][]string{{"as they are", fmt.Sprintf("%.3g nats", got.Gap), ""}}
	for _, step := range got.Steps {
		rows = append(rows, []string{"with the reference's " + step.What, fmt.Sprintf("%.3g nats", step.KL), fmt.Sprintf("%.1f %% closed", 100*step.Closed)})
	}
	fmt.Fprint(s.Out, indent(table(rows)))
	fmt.Fprintf(s.Out, "  %s\n", got.Text)
	return len(got.Named) > 0, nil
}

// explainEngine starts the candidate again and again, each time with one thing
// changed, until the gap is closed.
func (s *sides) explainEngine(ctx context.Context, rep *verify.Report, argv []string) error {
	contrasts := verify.Contrasts(argv, rep.Causes, s.reference.dir)
	if len(contrasts) == 0 {
		fmt.Fprintf(s.Out, "\nexplain: no experiment is known for %q: vllm, sglang, llama-server and tarbert are\n", argv[0])
		return nil
	}
	fmt.Fprintf(s.Out, "\nexplain: the candidate started again with one thing changed (%d experiments at most)\n", len(contrasts))
	fmt.Fprintf(s.Out, "  %-52s %12s %12s  %s\n", "", "typical", "mean KL", "verdict")
	row := func(name string, r *verify.Report, note string) {
		typical := "–"
		if r.Typical != nil {
			typical = fmt.Sprintf("%.3g×", r.Typical.Value)
		}
		fmt.Fprintf(s.Out, "  %-52s %12s %12.3g  %s%s\n", name, typical, r.KL.Value, r.Gate.Verdict, note)
	}
	row("as it is", rep, "")
	for i, c := range contrasts {
		got, err := s.contrast(ctx, i, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err != nil:
			first, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Fprintf(s.Out, "  %-52s did not run: %s\n", c.Name, clip(first, 160))
		case got.Gate.Verdict == gate.Pass || closes(rep, got):
			row(c.Name, got, "  ← closes the gap")
			fmt.Fprintf(s.Out, "  cause: %s (%s)\n", c.Blame, strings.Join(c.Argv, " "))
			return nil
		default:
			row(c.Name, got, "")
		}
	}
	fmt.Fprintln(s.Out, "  none of them closes the gap: look at the weights (convert check), or give both model directories")
	return nil
}

// closes: nine tenths of the mean divergence are gone.
func closes(before, after *verify.Report) bool {
	return after.Failure == "" && after.Prompts >= 16 && after.KL.Value < 0.1*before.KL.Value
}

// contrast verifies one changed candidate on some of the run's prompts.
func (s *sides) contrast(ctx context.Context, i int, c verify.Contrast) (rep *verify.Report, err error) {
	show := s.parts()
	defer show.close()
	host, err := s.processor(ctx)
	if err != nil {
		return nil, err
	}
	dep := engine.Deployer{Executor: s.deps.Executors["local"], Engine: &engine.Command{Argv: c.Argv}, Stage: "explain", Progress: show.progress}
	d, err := dep.Deploy(ctx, fmt.Sprintf("%s-explain-%d", s.prefix, i), engine.Model{}, host, engine.Options{})
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopErr := d.Stop(context.WithoutCancel(ctx)); err == nil {
			err = stopErr
		}
	}()
	e := &end{name: "candidate", where: d.URL}
	if problem, err := s.endpoint(ctx, e); problem != nil || err != nil {
		return nil, firstOf(problem, err)
	}
	e.client.Vocab = s.vocab
	if e.access, err = e.client.Open(ctx, s.made.probe, s.flags.top); err != nil {
		return nil, err
	}
	out := filepath.Join(s.out, fmt.Sprintf("explain-%d", i))
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, environment(err)
	}
	n := min(explainPrompts, len(s.made.prompts))
	in := verify.Input{
		Spec: s.last.Spec, Typical: s.last.Typical, Seed: s.last.Seed, OutDir: out, Now: s.now, Vocab: s.vocab, Sequential: true,
		Reference: verify.Side{Stack: s.reference.stack, Scorer: s.reference.access}, Candidate: verify.Side{Stack: e.stack, Scorer: e.access},
		Prompts: s.made.prompts[:n], From: s.made.from[:n], Progress: show.progress, PerPart: true,
	}
	if s.floorEnd != nil {
		in.Floor = verify.Side{Stack: s.floorEnd.stack, Scorer: s.floorEnd.access}
	}
	return verify.Run(ctx, in)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
