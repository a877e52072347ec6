package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/compare"
	"tarbert/internal/release"
	"tarbert/internal/spec"
)

func (a *app) compareCommand() *cobra.Command {
	var s spec.Compare
	var candidate, baseline, model, out string
	var seed uint64
	c := &cobra.Command{
		Use:   "compare --candidate C --baseline B --problems FILE.jsonl",
		Short: "Compare two deployments' answers to the same problems, paired",
		Long: `Each side is the URL of an OpenAI-compatible endpoint or a model directory. Both answer every problem greedily and
sampled at temperature 1. Exit code 0 when the candidate is not worse than the margin allows.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if candidate == "" || baseline == "" || s.Problems == "" {
				return badUsage("compare needs --candidate, --baseline (each a URL or a model directory) and --problems FILE.jsonl")
			}
			return a.compare(c.Context(), s, candidate, baseline, model, out, seed)
		},
	}
	fl := c.Flags()
	fl.StringVar(&candidate, "candidate", "", "URL or model directory that is judged")
	fl.StringVar(&baseline, "baseline", "", "URL or model directory that it must not be worse than")
	fl.StringVar(&s.Problems, "problems", "", `JSON Lines of {"id","prompt","answer"}`)
	fl.StringVar(&s.Reward, "reward", "answer", "how answers are judged")
	fl.Float64Var(&s.NonInferiority, "margin", 0.05, "largest loss of greedy accuracy that is allowed")
	fl.IntVar(&s.MaxTokens, "max-tokens", 64, "tokens of each answer")
	fl.Uint64Var(&seed, "seed", 1, "seed of the samples")
	fl.StringVar(&model, "model", "", "model name to ask endpoints for; default: the first that they list")
	fl.StringVar(&out, "out", "", "directory for the outcomes; default: a new one below the home")
	return c
}

func (a *app) compare(ctx context.Context, s spec.Compare, candidate, baseline, model, out string, seed uint64) (err error) {
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	if out == "" {
		out = filepath.Join(deps.Home, "compare", a.now().UTC().Format("20060102T150405.000"))
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return environment(err)
	}
	opened := sides{app: a, deps: deps, flags: &verifyFlags{model: model}, prefix: "compare-" + filepath.Base(strings.ToLower(out))}
	defer func() { err = errors.Join(err, opened.stop(ctx)) }()
	in := compare.Input{Spec: s, Seed: seed, Baseline: "baseline", OutDir: out, Parallel: 64, Progress: a.bar("compare")}
	for _, c := range [][2]string{{"candidate", candidate}, {"baseline", baseline}} {
		side := &end{name: c[0], where: c[1]}
		problem, err := opened.open(ctx, side)
		if err != nil {
			return err
		}
		if problem != nil {
			return environment(problem)
		}
		in.Candidates = append(in.Candidates, compare.Candidate{Name: c[0], Complete: release.Completer(side.client)})
	}
	rep, err := compare.Run(ctx, in)
	if err != nil {
		return err
	}
	if a.json {
		err = a.printJSON(rep)
	} else {
		_, err = fmt.Fprint(a.Out, renderComparison(rep))
	}
	if err == nil && !rep.Gate.Passed() {
		err = gateSaidNo()
	}
	return err
}

func renderComparison(r *compare.Report) string {
	rate := func(x *compare.Rate) string {
		if x == nil {
			return "no answer"
		}
		return fmt.Sprintf("%.1f %% [%.1f, %.1f]", 100*x.Value, 100*x.Low, 100*x.High)
	}
	rows := [][]string{{"", "greedy", "pass@1 (T=1)", "thinks first", "failures"}}
	for _, c := range r.Candidates {
		rows = append(rows, []string{c.Name, rate(c.Greedy), rate(c.Pass1), rate(c.Thinks), fmt.Sprint(c.Failures)})
	}
	var b strings.Builder
	b.WriteString(table(rows))
	fmt.Fprintf(&b, "\n%s  %s\noutcomes  %s\n", strings.ToUpper(string(r.Gate.Verdict)), r.Gate.Reason, relative(r.Outcomes))
	return b.String()
}
