package cli

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tarbert/internal/release"
	"tarbert/internal/spec"
)

func (a *app) releaseCommand() *cobra.Command {
	c := &cobra.Command{Use: "release", Short: "Run, resume, list and show releases"}
	var up bool
	run := &cobra.Command{
		Use:   "run SPEC|DIR",
		Short: "Run a release, or resume it where it stopped",
		Long: `Run a release through its eight stages, or resume it: a stage that passed on the same inputs, and whose
outputs are intact, is reused. Exit code 0 only when released, 1 when a gate said no.`,
		Args: exactArgs(1, "the release file, or the folder that holds release.yaml"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runRelease(c.Context(), args[0], release.Options{Up: up})
		},
	}
	run.Flags().BoolVar(&up, "up", false, "keep the endpoint running until interrupted")
	list := &cobra.Command{
		Use: "list", Short: "List the releases in this home", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.listReleases(c.Context()) },
	}
	show := &cobra.Command{
		Use: "show ID", Short: "Show a release: stages, evidence, models, certificate",
		Args: exactArgs(1, "a release's id; `tarbert release list` prints them"),
		RunE: func(c *cobra.Command, args []string) error { return a.showRelease(c.Context(), args[0]) },
	}
	c.AddCommand(run, list, show)
	return c
}

// untilCommand is a stage's own command: a release up to that stage.
func (a *app) untilCommand(stage, short string) *cobra.Command {
	return &cobra.Command{
		Use: stage + " SPEC|DIR", Short: short,
		Long: short + ".\n\nThe stages before it are run, or reused where they have passed on the same inputs.",
		Args: exactArgs(1, "the release file, or the folder that holds release.yaml"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.runRelease(c.Context(), args[0], release.Options{Until: stage})
		},
	}
}

func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return badUsage("%s needs %s\n\n%s", c.CommandPath(), what, c.UsageString())
		}
		return nil
	}
}

func (a *app) runRelease(ctx context.Context, path string, o release.Options) error {
	s, err := spec.Load(path)
	if err != nil {
		return badUsage("%w", err)
	}
	if err := a.trainerReady(ctx, s); err != nil {
		return err
	}
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	names := release.StageNames()
	for i, name := range names {
		if name == o.Until {
			names = names[:i+1]
		}
	}
	tty, width := terminal(a.Err)
	view := newScreen(a.Err, tty, width, a.now, names)
	deps.Watch, deps.Progress = view.event, view.progress
	fmt.Fprintf(a.Err, "tarbert release %s · %s\n\n", s.Name, relative(s.File))
	if o.Up {
		o.Serving = func(res *release.Result, url string) {
			view.close()
			if !a.json {
				fmt.Fprint(a.Out, "\n"+renderResult(res, o))
			}
			fmt.Fprintf(a.Err, "\nserving %s at %s/v1 until interrupted (Ctrl-C)\n", s.Name, url)
		}
	}
	res, err := release.Run(ctx, deps, s, o)
	view.close()
	if err != nil {
		if res != nil {
			return fmt.Errorf("%w\n\nnothing that passed is lost; resume with:\n  tarbert%s release run %s", err, a.homeFlag(), path)
		}
		return err
	}
	if a.json {
		if err := a.printJSON(res); err != nil {
			return environment(err)
		}
	} else if !o.Up || !res.Released {
		fmt.Fprint(a.Out, "\n"+renderResult(res, o))
	}
	if !res.Verdict.Passed() {
		return gateSaidNo()
	}
	return nil
}

func (a *app) homeFlag() string {
	if a.home == ".tarbert" {
		return ""
	}
	return " --home " + a.home
}

// relative shortens a path below the working directory.
func relative(path string) string {
	wd, err := filepath.Abs(".")
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}

// renderResult is the text that a release ends with.
func renderResult(res *release.Result, o release.Options) string {
	var b strings.Builder
	if s := res.Summary; s != nil {
		b.WriteString(renderSummary(s))
		b.WriteString("\n")
	}
	last := res.Stages[len(res.Stages)-1]
	switch {
	case res.Released:
		fmt.Fprintf(&b, "RELEASED  %s in %s\n", res.ID, seconds(time.Duration(res.Seconds*float64(time.Second))))
		fmt.Fprintf(&b, "  certificate  %s\n", relative(res.Certificate))
		fmt.Fprintf(&b, "  check it     tarbert certificate check %s\n", relative(res.Certificate))
		fmt.Fprintf(&b, "  serve it     tarbert serve %s\n", relative(res.Summary.Model))
	case res.Verdict.Passed():
		fmt.Fprintf(&b, "%s: %s\n", last.Stage, last.Gate.Reason)
		if last.Text != "" {
			b.WriteString("\n" + last.Text)
		}
		fmt.Fprintf(&b, "  evidence  %s\n", relative(last.Evidence))
	default:
		fmt.Fprintf(&b, "BLOCKED  %s at %s: %s\n", res.ID, last.Stage, last.Gate.Verdict)
		for _, c := range last.Gate.Checks {
			fmt.Fprintf(&b, "  %-12s  %s: %s\n", c.Verdict, c.Name, c.Detail)
		}
		if len(last.Gate.Checks) == 0 {
			fmt.Fprintf(&b, "  %s\n", last.Gate.Reason)
		}
		if last.Text != "" {
			b.WriteString("\n" + last.Text)
		}
		fmt.Fprintf(&b, "  evidence  %s\n", relative(last.Evidence))
	}
	return b.String()
}

func renderSummary(s *release.Summary) string {
	rows := [][]string{{"held-out problems", "pass@1 (T=1)", "greedy", "thinks first"}}
	for _, q := range s.Quality {
		rows = append(rows, []string{q.Name, percent(q.PassAt1), percent(q.Greedy), percent(q.Thinks)})
	}
	facts := [][]string{
		{"label agreement", fmt.Sprintf("α %.3f, lower bound %.3f", s.Alpha, s.AlphaLower)},
		{"trained", fmt.Sprintf("%d tokens at %.0f tokens/s", s.TrainTokens, s.TrainRate)},
		{"floor (bf16 against f32)", fmt.Sprintf("KL %.2e nats a token", s.FloorKL)},
		{"candidate (w8a8 against f32)", fmt.Sprintf("KL %.2e nats a token, %.1f × the floor: %s", s.CandidateKL, s.Ratio, s.Verify)},
		{"size", fmt.Sprintf("%s → %s", bytesText(s.BytesBefore), bytesText(s.BytesAfter))},
		{"serving", fmt.Sprintf("%.0f tokens/s", s.ServeRate)},
	}
	return table(rows) + "\n" + curves(s) + "\n" + table(facts)
}

// curves draws what training did. The loss is drawn on a logarithmic scale and
// for SFT only: what GRPO minimises is no measure of its progress.
func curves(s *release.Summary) string {
	var rows [][]string
	for _, c := range s.Curves {
		values := make([]float64, 0, len(c.Points))
		for _, p := range c.Points {
			if c.Name == "loss" && p[0] > float64(s.SFTSteps) {
				break
			}
			values = append(values, p[1])
		}
		if len(values) < 2 {
			continue
		}
		name, drawn := map[string]string{"loss": "SFT loss (log)", "reward": "GRPO reward", "thinks": "GRPO thinks first"}[c.Name], values
		if c.Name == "loss" {
			drawn = make([]float64, len(values))
			for i, v := range values {
				drawn[i] = math.Log(max(v, 1e-12))
			}
		}
		rows = append(rows, []string{name, spark(drawn, sparkWidth), fmt.Sprintf("%.3g → %.3g", values[0], values[len(values)-1])})
	}
	return table(rows)
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

func bytesText(n int64) string {
	const unit = 1024.0
	x, suffix := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for x >= unit && i < len(suffix)-1 {
		x /= unit
		i++
	}
	return fmt.Sprintf("%.3g %s", x, suffix[i])
}

func (a *app) listReleases(ctx context.Context) error {
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	list, err := release.List(ctx, deps)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(list)
	}
	if len(list) == 0 {
		fmt.Fprintln(a.Err, "no releases here yet; try: tarbert release run examples/sums")
		return nil
	}
	rows := [][]string{{"id", "begun", "stage", "verdict", "spec"}}
	for _, r := range list {
		rows = append(rows, []string{r.ID, r.Begun.Local().Format("2006-01-02 15:04"), r.Stage, r.Verdict, relative(r.Spec)})
	}
	fmt.Fprint(a.Out, table(rows))
	return nil
}

func (a *app) showRelease(ctx context.Context, id string) error {
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	show, err := release.Show(ctx, deps, id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(show)
	}
	rows := [][]string{{"stage", "verdict", "took", "what"}}
	for _, st := range show.Stages {
		rows = append(rows, []string{st.Stage, string(st.Gate.Verdict), seconds(time.Duration(st.Seconds * float64(time.Second))), clip(st.Line, 90)})
	}
	fmt.Fprint(a.Out, table(rows))
	for _, st := range show.Stages {
		if st.Stage == "train" && st.Text != "" {
			fmt.Fprintf(a.Out, "\ntrain\n%s\n", st.Text)
		}
	}
	for _, m := range show.Models {
		fmt.Fprintf(a.Out, "model        %-12s %s\n", m.Name, relative(filepath.Join(deps.Home, m.Path)))
	}
	if show.Certificate != "" {
		fmt.Fprintf(a.Out, "certificate  %s\n", relative(filepath.Join(deps.Home, show.Certificate)))
	}
	return nil
}
