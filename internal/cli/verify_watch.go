package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"tarbert/internal/certificate"
	"tarbert/internal/engine"
	"tarbert/internal/verify"
)

type watchFlags struct {
	on                    bool
	baseline, certificate string
	every, poll           time.Duration
	prompts               int
	once, keep            bool
}

func (w *watchFlags) add(fl *pflag.FlagSet) {
	fl.BoolVar(&w.on, "watch", false, "keep asking a live --candidate a few of the prompts that it was verified with, and report drift")
	fl.StringVar(&w.baseline, "baseline", "", "with --watch: the evidence file of the verification that it passed")
	fl.StringVar(&w.certificate, "certificate", "", "with --watch: the certificate of its release, in place of --baseline")
	fl.DurationVar(&w.every, "every", time.Hour, "with --watch: time between rounds")
	fl.DurationVar(&w.poll, "poll", time.Minute, "with --watch: time between looks at version, model and flags; a change starts a round at once")
	fl.IntVar(&w.prompts, "watch-prompts", 16, "with --watch: prompts of a round")
	fl.BoolVar(&w.once, "once", false, "with --watch: one look, and a round if one is due; for cron")
	fl.BoolVar(&w.keep, "keep", false, "with --watch: go on after drift was found")
}

// watch asks a live endpoint until drift is found or it is interrupted. Exit
// code 1 = drift.
func (a *app) watch(ctx context.Context, f verifyFlags) error {
	w := f.watch
	switch {
	case !isURL(f.candidate):
		return badUsage("--watch needs --candidate URL: what serves")
	case (w.baseline == "") == (w.certificate == ""):
		return badUsage("--watch needs --baseline EVIDENCE or --certificate FILE: what it was when it passed")
	case w.every < time.Second || w.poll < time.Second || w.prompts < 1:
		return badUsage("--every and --poll must be at least a second, --watch-prompts at least 1")
	}
	evidence := w.baseline
	if w.certificate != "" {
		var err error
		if evidence, err = evidenceOf(ctx, w.certificate); err != nil {
			return err
		}
	}
	base, err := verify.ReadBaseline(evidence)
	if err != nil {
		return err
	}
	home, err := filepath.Abs(a.home)
	if err != nil {
		return environment(err)
	}
	if f.out == "" {
		f.out = filepath.Join(home, "watch", base.Digest[:12])
	}
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return environment(err)
	}
	live := &lazyAccess{sides: &sides{app: a, flags: &f}, e: &end{name: "candidate", where: f.candidate}, probe: base.Probe()}
	watcher := &verify.Watch{
		Baseline: base, Endpoint: live, Every: w.every, Poll: w.poll, Budget: w.prompts, Seed: f.seed, Dir: f.out, Once: w.once, Keep: w.keep,
		Report: func(e verify.WatchEvent, s *verify.WatchState) { fmt.Fprintln(a.Err, "  "+eventText(e, 1/base.Alpha)) },
	}
	s, err := watcher.Run(ctx)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.printJSON(s); err != nil {
			return err
		}
	} else {
		fmt.Fprint(a.Out, watchText(s, 1/base.Alpha, filepath.Join(f.out, verify.WatchFile)))
	}
	if s.Drift != nil {
		return gateSaidNo()
	}
	return nil
}

// evidenceOf is the verification's evidence that a certificate binds.
func evidenceOf(ctx context.Context, path string) (string, error) {
	public, err := certificate.LoadPublicKey(keyFor("", path))
	if err != nil {
		return "", err
	}
	st, err := certificate.Read(path, public)
	if err != nil {
		return "", err
	}
	for _, b := range st.Predicate.Bound {
		if b.Name == "verify-evidence" {
			return filepath.Join(filepath.Dir(path), filepath.FromSlash(st.Predicate.Root), filepath.FromSlash(b.Path)), ctx.Err()
		}
	}
	return "", badUsage("%s binds no verification's evidence", path)
}

// eventText is one line; drift is certain from enough evidence on.
func eventText(e verify.WatchEvent, enough float64) string {
	at := e.At.Local().Format("2006-01-02 15:04:05")
	switch e.Kind {
	case "began":
		return at + "  watching against baseline " + e.Baseline[:12]
	case "stack":
		b, err := json.Marshal(e.Stack)
		if err != nil {
			return at + "  " + err.Error()
		}
		return at + "  stack " + string(b)
	case "down":
		return at + "  no answer (not drift): " + e.Note
	case "up":
		return at + "  answers again"
	case "drift":
		return at + "  DRIFT since " + e.Since.Local().Format("2006-01-02 15:04:05") + ": " + e.Note
	}
	abs := 0.0
	for _, m := range e.Moves {
		abs += m.Abs / float64(len(e.Moves))
	}
	text := fmt.Sprintf("%s  %d prompts, |Δ log p| %.3g nats, evidence of drift %.3g of %.3g", at, len(e.Moves), abs, e.Evidence, enough)
	if e.Note != "" {
		text += "; " + e.Note
	}
	return text
}

func watchText(s *verify.WatchState, enough float64, journal string) string {
	day := func(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }
	if s.Drift == nil {
		return fmt.Sprintf("NO DRIFT  evidence %.3g (%.3g would be certain)\njournal   %s\n", s.Evidence, enough, relative(journal))
	}
	rows := [][]string{{"began", day(s.Drift.Since)}, {"found", day(s.Drift.Found)}, {"why", s.Drift.Why}, {"journal", relative(journal)}}
	if !s.Drift.After.IsZero() {
		rows[0][1] = "between " + day(s.Drift.After) + " and " + day(s.Drift.Since)
	}
	return "DRIFT\n" + indent(table(rows))
}

// lazyAccess opens the endpoint when it first answers: a watch may begin while it is away.
type lazyAccess struct {
	sides *sides
	e     *end
	probe []int
}

func (l *lazyAccess) open(ctx context.Context) error {
	if l.e.access != nil {
		return nil
	}
	if problem, err := l.sides.endpoint(ctx, l.e); problem != nil || err != nil {
		return firstOf(problem, err)
	}
	access, err := l.e.client.Open(ctx, l.probe, 1)
	if err != nil {
		return err
	}
	l.e.access = access
	return nil
}

func (l *lazyAccess) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	return l.e.access.Score(ctx, prompts, k)
}

func (l *lazyAccess) Identify(ctx context.Context) (engine.Identity, error) {
	if err := l.open(ctx); err != nil {
		return engine.Identity{}, err
	}
	return l.e.access.Identify(ctx)
}

func (l *lazyAccess) ChatTokens(ctx context.Context, messages, tools json.RawMessage) (int, error) {
	if l.e.access == nil {
		return 0, errors.New("not open")
	}
	return l.e.access.ChatTokens(ctx, messages, tools)
}
