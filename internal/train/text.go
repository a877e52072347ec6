package train

import (
	"fmt"
	"strings"
)

// Text is the report for people: attempts, ledger, moves, alarms.
func (r *Report) Text() string {
	var b strings.Builder
	r.attemptsText(&b)
	b.WriteString(r.Ledger.Text())
	r.movesText(&b)
	if len(r.Alarms) > 0 {
		b.WriteString("\nalarms\n")
		for _, a := range r.Alarms {
			fmt.Fprintf(&b, "  %-14s attempt %d, step %d", a.Kind, a.Attempt, a.Step)
			if a.Count > 1 {
				fmt.Fprintf(&b, " to %d (%d times)", a.Last, a.Count)
			}
			fmt.Fprintf(&b, ": %s\n", a.Text)
		}
	}
	if r.Interval.Text != "" && r.Interval.Steps > 0 {
		fmt.Fprintf(&b, "\ncheckpoints: %s\n", r.Interval.Text)
	}
	if r.Proven != nil {
		fmt.Fprintf(&b, "last proven checkpoint: step %d (resumed, and the loss went on as it was)\n", r.Proven.Step)
	}
	return b.String()
}

func (r *Report) attemptsText(b *strings.Builder) {
	if len(r.Attempts) < 2 && len(r.Alarms) == 0 {
		return
	}
	fmt.Fprintf(b, "%-8s %-10s %9s %9s  %-14s %-9s %s\n", "attempt", "pool", "from step", "to step", "ended", "seen in", "why")
	for _, a := range r.Attempts {
		seen := ""
		if a.Noticed > 0 && a.Outcome != Done {
			seen = fmt.Sprintf("%.2f s", a.Noticed)
		}
		why := a.Reason
		if a.Cause != "" {
			why += ": " + a.Cause
		}
		if a.Stacks != "" {
			why += " · stacks " + a.Stacks
		}
		fmt.Fprintf(b, "%-8d %-10s %9d %9d  %-14s %-9s %s\n", a.Number, a.Pool, a.ResumeStep, a.LastStep, a.Outcome, seen, why)
		for _, s := range a.Skipped {
			fmt.Fprintf(b, "%-8s passed over: checkpoint of step %d: %s\n", "", s.Step, s.Reason)
		}
	}
	b.WriteString("\n")
}

// Text is the ledger as a table: classes down, their sum below.
func (l Ledger) Text() string {
	var b strings.Builder
	priced := l.MoneyTotal > 0
	head := fmt.Sprintf("%-12s %10s %7s %14s", "ledger", "wall s", "share", "device-seconds")
	if priced {
		head += fmt.Sprintf(" %10s", "money")
	}
	b.WriteString(head + "\n")
	row := func(name string, wall, devices, money float64) {
		share := 0.0
		if l.Wall > 0 {
			share = 100 * wall / l.Wall
		}
		fmt.Fprintf(&b, "%-12s %10.2f %5.1f %% %14.2f", name, wall, share, devices)
		if priced {
			fmt.Fprintf(&b, " %10.4f", money)
		}
		b.WriteString("\n")
	}
	wall := 0.0
	for _, class := range classNames() {
		if l.Classes[class] == 0 && l.Devices[class] == 0 {
			continue
		}
		wall += l.Classes[class]
		row(class, l.Classes[class], l.Devices[class], l.Money[class])
	}
	row("sum", wall, l.DeviceSeconds, l.MoneyTotal)
	fmt.Fprintf(&b, "wall time %.2f s · ETTR %.3f, without the queue %.3f\n", l.Wall, l.ETTR, l.ETTRWithoutQueue)
	return b.String()
}

func (r *Report) movesText(b *strings.Builder) {
	for _, m := range r.Moves {
		fmt.Fprintf(b, "\npool %s → %s: %s, after step %d\n", m.From, m.To, m.Phase, m.AfterStep)
		for _, s := range m.Spent {
			fmt.Fprintf(b, "  budget spent: %s\n", s)
		}
		for line := range strings.Lines(m.Arithmetic) {
			b.WriteString("  " + line)
		}
		if m.Checkpoint != "" {
			fmt.Fprintf(b, "  from the %s, step %d\n", m.checkpoint(), m.Step)
		}
		if p := m.Parity; p != nil {
			verdict := "inconclusive"
			if p.Passed {
				verdict = "pass"
			} else if p.Failed {
				verdict = "fail"
			}
			fmt.Fprintf(b, "  parity replay, judged by %s: %s · %s\n", p.Judge, verdict, strings.Join(p.Reasons, "; "))
		}
	}
}
