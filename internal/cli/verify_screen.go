package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/verify"
)

// parts shows one part of a verification after another: a bar for the one that
// runs, a line for each that is done.
type parts struct {
	mu    sync.Mutex
	out   io.Writer
	tty   bool
	width int
	now   func() time.Time

	name  string
	last  progress.Update
	began time.Time
	drawn time.Time
}

func (a *app) parts() *parts {
	tty, width := terminal(a.Err)
	return &parts{out: a.Err, tty: tty, width: width, now: a.now}
}

func (p *parts) begin(name string) { p.progress(progress.Update{Stage: name}) }

func (p *parts) progress(u progress.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if u.Stage != p.name {
		p.end(now)
		p.name, p.began = u.Stage, now
		if !p.tty {
			fmt.Fprintf(p.out, "%-9s …\n", u.Stage)
		}
		p.drawn = now
	}
	p.last = u
	every := plainEvery
	if p.tty {
		every = redrawEvery
	}
	if now.Sub(p.drawn) < every {
		return
	}
	p.drawn = now
	if p.tty {
		fmt.Fprint(p.out, "\r\x1b[2K"+clip(fmt.Sprintf("  %-9s %s %s", p.name, bar(u.Done, u.Total), p.activity(now)), p.width-1))
		return
	}
	fmt.Fprintf(p.out, "%-9s %s\n", p.name, p.activity(now))
}

func (p *parts) activity(now time.Time) string {
	var out []string
	if p.last.Total > 0 {
		out = append(out, fmt.Sprintf("%.0f/%.0f %s", p.last.Done, p.last.Total, p.last.Unit))
	} else if p.last.Unit != "" {
		out = append(out, fmt.Sprintf("%.0f %s", p.last.Done, p.last.Unit))
	}
	if p.last.Note != "" {
		out = append(out, p.last.Note)
	}
	return strings.Join(append(out, seconds(now.Sub(p.began))), " · ")
}

func (p *parts) end(now time.Time) {
	if p.name == "" {
		return
	}
	start := ""
	if p.tty {
		start = "\r\x1b[2K"
	}
	fmt.Fprintf(p.out, "%s  %-9s %s\n", start, p.name, p.activity(now))
	p.name = ""
}

func (p *parts) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(p.now())
}

// renderVerification is the report for people.
func renderVerification(r *verify.Report, evidence string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s  %s\n", strings.ToUpper(string(r.Gate.Verdict)), verdictLine(r))
	rows := [][]string{{"", "reference", "candidate"}}
	rows = append(rows, stackRows(r.Reference, r.Candidate)...)
	b.WriteString("\n" + indent(table(rows)))
	if r.Prompts > 0 {
		b.WriteString("\n" + indent(table(statisticRows(r))))
		b.WriteString("\n" + indent(table(strataRows(r))))
	}
	b.WriteString("\n")
	for _, c := range shownChecks(r) {
		fmt.Fprintf(&b, "  %s %-20s %s\n", mark("", c.Verdict), c.Name, c.Detail)
	}
	for _, s := range r.Scope {
		fmt.Fprintf(&b, "  · %-20s %s\n", "scope", s)
	}
	for i, c := range r.Causes {
		if i == 0 {
			b.WriteString("\n  likeliest causes\n")
		}
		fmt.Fprintf(&b, "  %2d. %s\n      %s\n", i+1, c.Name, c.Why)
	}
	var tail [][]string
	if r.Prompts > 0 {
		tail = append(tail, []string{"signature", r.Signature}, []string{"could have seen", r.Smallest.Text})
	}
	if len(r.Cost) > 0 {
		tail = append(tail, []string{"cost", costText(r.Cost)})
	}
	tail = append(tail, []string{"evidence", relative(evidence)})
	b.WriteString("\n" + indent(table(tail)))
	return b.String()
}

// shownChecks are the main part's checks, the others' that did not pass, and
// one line for each other part that passed as a whole.
func shownChecks(r *verify.Report) []gate.Check {
	passed := map[string]int{}
	part := func(name string) string {
		for _, p := range r.Parts {
			if strings.HasPrefix(name, p.Name+" ") {
				return p.Name
			}
		}
		return ""
	}
	var out []gate.Check
	var order []string
	for _, c := range r.Gate.Checks {
		p := part(c.Name)
		if p == "" || c.Verdict != gate.Pass {
			out = append(out, c)
			continue
		}
		if passed[p]++; passed[p] == 1 {
			order = append(order, p)
		}
	}
	for _, p := range order {
		out = append(out, gate.Check{Name: p, Verdict: gate.Pass, Detail: fmt.Sprintf("%d checks passed", passed[p])})
	}
	return out
}

func verdictLine(r *verify.Report) string {
	switch {
	case r.Failure != "":
		return r.Failure
	case r.Gate.Verdict == gate.Pass:
		return fmt.Sprintf("the candidate is the reference's model within the margins, over %d tokens of %d prompts", r.Tokens, r.Prompts)
	case r.Gate.Verdict == gate.Fail:
		return "the candidate is not the reference's model: " + r.Gate.Reason
	}
	return "it cannot be told: " + r.Gate.Reason
}

// stackRows has what either side tells of itself, where they differ or matter.
func stackRows(a, b verify.Stack) [][]string {
	var rows [][]string
	add := func(name, x, y string) {
		if x != "" || y != "" {
			rows = append(rows, []string{name, orDash(x), orDash(y)})
		}
	}
	add("model", a.Name, b.Name)
	add("engine", strings.TrimSpace(a.Engine+" "+a.Version), strings.TrimSpace(b.Engine+" "+b.Version))
	add("gateway", a.Gateway, b.Gateway)
	add("precision", a.Precision, b.Precision)
	add("at", a.URL, b.URL)
	add("scored over", a.Path, b.Path)
	for _, name := range []string{"enable_prefix_caching", "cache_dtype", "speculative", "quantization", "dtype"} {
		add(name, a.Flags[name], b.Flags[name])
	}
	return rows
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

func statisticRows(r *verify.Report) [][]string {
	row := func(name string, i *verify.Interval, floor string) []string {
		if i == nil {
			return []string{name, "–", "", floor}
		}
		return []string{name, fmt.Sprintf("%.3g", i.Value), fmt.Sprintf("[%.3g, %.3g]", i.Lower, i.Upper), floor}
	}
	q := func(q verify.Quantiles) string { return fmt.Sprintf("%.2g, %.2g, %.2g", q.P50, q.P99, q.Max) }
	floorKL, floorQ, floorTop := "–", "–", "–"
	if r.FloorKL != nil {
		floorKL, floorTop = fmt.Sprintf("%.3g [%.3g, %.3g]", r.FloorKL.Value, r.FloorKL.Lower, r.FloorKL.Upper), fmt.Sprintf("%.4g", r.FloorTop1)
		floorQ = q(*r.FloorQuantiles)
	}
	rows := [][]string{{"", "candidate", "99 % bounds", "floor"}, row("KL, nats a token", &r.KL, floorKL)}
	if r.Ratio != nil {
		rows = append(rows, row("… over the floor", r.Ratio, ""), row("typical token", r.Typical, ""))
	}
	rows = append(rows, []string{"p50, p99, max", q(r.Quantiles), "", floorQ}, row("top-1 agreement", &r.Top1, floorTop),
		row("ΔNLL", &r.DeltaNLL, fmt.Sprintf("%.2g", r.FloorDeltaNLL)), []string{"logit slope", fmt.Sprintf("%.4f", r.Slope), "", ""})
	for _, f := range r.Floors {
		used := ""
		if f.Used {
			used = "used"
		}
		rows = append(rows, []string{f.Name, fmt.Sprintf("%.3g", f.KL.Value), fmt.Sprintf("[%.3g, %.3g]", f.KL.Lower, f.KL.Upper), used})
	}
	return rows
}

// strataRows are the given kinds and the parts, in one table.
func strataRows(r *verify.Report) [][]string {
	rows := [][]string{{"", "prompts", "tokens", "KL", "× floor", "typical"}}
	number := func(x float64) string {
		if x == 0 {
			return "–"
		}
		return fmt.Sprintf("%.3g", x)
	}
	for _, s := range r.Strata {
		kind := !strings.HasPrefix(s.Name, "length") && !strings.HasPrefix(s.Name, "positions")
		if kind || s.Outside {
			rows = append(rows, []string{s.Name, fmt.Sprint(s.Prompts), fmt.Sprint(s.Tokens), number(s.KL), number(s.Ratio), number(s.Typical)})
		}
	}
	for _, p := range r.Parts {
		row := []string{p.Name, fmt.Sprint(p.Report.Prompts), fmt.Sprint(p.Tokens), number(p.KL.Value), "–", "–"}
		if p.Ratio != nil {
			row[4], row[5] = number(p.Ratio.Value), number(p.Typical.Value)
		}
		rows = append(rows, row)
	}
	return rows
}

func costText(costs []verify.Cost) string {
	var sum verify.Cost
	var each []string
	for _, c := range costs {
		sum.Requests, sum.Reused = sum.Requests+c.Requests, sum.Reused+c.Reused
		sum.Scored, sum.Generated, sum.Seconds = sum.Scored+c.Scored, sum.Generated+c.Generated, sum.Seconds+c.Seconds
		each = append(each, fmt.Sprintf("%s %.1f s", c.Stage, c.Seconds))
	}
	text := fmt.Sprintf("%d requests, %d tokens read, %d written, %.1f s (%s)", sum.Requests, sum.Scored, sum.Generated, sum.Seconds, strings.Join(each, ", "))
	if sum.Reused > 0 {
		text += fmt.Sprintf("; %d answers of an earlier run used again", sum.Reused)
	}
	return text
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n  ") + "\n"
}
