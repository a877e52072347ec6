package plan

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Estimate is the chosen option's work and time in a few words.
func (p *Plan) Estimate() string {
	if p.Seconds == nil {
		return p.FLOPs.String() + ", time unknown"
	}
	return fmt.Sprintf("%v in about %v", p.FLOPs, *p.Seconds)
}

// Table is the plan for people: the work, then a line per option.
func (p *Plan) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "model\t%s, %s parameters, %s active per token\n", or(p.Model.Type, "unknown"), grouped(p.Parameters.Total), grouped(p.Parameters.Active))
	for _, s := range p.Stages {
		fmt.Fprintf(w, "%s\t%s steps, %s tokens, %v", s.Name, grouped(int64(s.Steps)), grouped(int64(s.Tokens)), s.Train)
		if s.Rollout > 0 {
			fmt.Fprintf(w, " and %v to sample them", s.Rollout)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "work\t%v (%v)\n", p.FLOPs, p.Convention)
	if speed := p.training().Speed; speed != nil {
		fmt.Fprintf(w, "rate\t%v\n", *speed)
	} else if p.Rate > 0 {
		fmt.Fprintf(w, "rate\t%v measured; training reaches %s of it, sampling %s\n", p.Rate, percent(p.TrainEfficiency), percent(p.RolloutEfficiency))
	} else {
		fmt.Fprintf(w, "rate\tnot measured\n")
	}
	fmt.Fprintf(w, "deadline\t%v\n", p.Deadline)
	_ = w.Flush() // into a strings.Builder
	b.WriteByte('\n')
	w.Init(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "pool\trole\tverdict\tP50\tP10–P90\twhy")
	for _, o := range p.Options {
		verdict, why := "possible", ""
		switch {
		case o.Rejected != "":
			verdict, why = "rejected", o.Rejected
		case o.Chosen:
			verdict, why = "chosen", fmt.Sprintf("%s on %s", o.Placement.Device.Model, o.Placement.Node)
		}
		p50, span := "–", "–"
		if o.Time != nil {
			p50, span = o.Time.P50.String(), fmt.Sprintf("%v – %v", o.Time.P10, o.Time.P90)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", o.Pool, o.Role, verdict, p50, span, why)
	}
	_ = w.Flush()
	for _, x := range p.Waivers() {
		fmt.Fprintf(&b, "waiver: %s\n", x)
	}
	return trimLines(b.String())
}

func percent(e Efficiency) string { return fmt.Sprintf("%g–%g %%", 100*e.Low, 100*e.High) }

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// trimLines removes the padding after an empty last column.
func trimLines(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}
