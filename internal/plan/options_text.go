package plan

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// OptionsText is the options for people: a line each, then what every
// accepted one is made of, then why the others were rejected.
func OptionsText(choices []Choice) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "pool\trecipe\tstart\tdevices\tmemory\tstep\tP50\tP90\tETTR\tcost\tMWh\tverdict")
	for _, o := range choices {
		o.line(w)
	}
	_ = w.Flush() // into a strings.Builder
	said := map[string]bool{}
	for _, o := range choices {
		if key := o.Pool + "/" + o.Recipe + "/" + o.Layout; !said[key] && o.Run != nil {
			said[key] = true
			o.describe(&b)
		}
	}
	rejected := false
	for _, o := range choices {
		if o.Rejected == "" {
			continue
		}
		if !rejected {
			b.WriteString("\nrejected\n")
			rejected = true
		}
		fmt.Fprintf(&b, "  %s, %s, from %s: %s\n", o.Pool, o.Recipe, day(o.Start), o.Rejected)
	}
	return trimLines(b.String())
}

func (o Choice) line(w *tabwriter.Writer) {
	verdict := "possible"
	switch {
	case o.Rejected != "":
		verdict = "rejected"
	case o.Chosen:
		verdict = "chosen"
	}
	memory, step, ettr, cost, mwh, p50, p90 := "–", "–", "–", "–", "–", "–", "–"
	if o.Memory.Total() > 0 {
		memory = o.Memory.Total().String()
	}
	if o.Run != nil {
		step, ettr = o.Step.Total().String(), fmt.Sprintf("%.3f", o.Run.ETTR)
		p50, p90 = day(o.Finish[1]), day(o.Finish[2])
		if o.Cost.High > 0 {
			cost = Money(o.Cost.Low).String() + "–" + Money(o.Cost.High).String()
		}
		if o.MWh > 0 {
			mwh = grouped(int64(o.MWh))
		}
	}
	fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Pool, o.Recipe, day(o.Start), o.Devices, memory, step, p50, p90, ettr, cost, mwh, verdict)
}

func (o Choice) describe(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s, %s: %s\n%s", o.Pool, o.Recipe, o.Layout, indent(o.Run.Text()))
	fmt.Fprintf(b, "  step     %v computing, %v bubble, %v communication shown; mostly %s\n", o.Step.Compute, o.Step.Bubble, o.Step.Communication(), o.Limit)
	fmt.Fprintf(b, "  memory   %v\n", o.Memory)
	if s := o.Saves; s != nil {
		fmt.Fprintf(b, "  saves    an interruption every %s h on average; Young every %v, Daly every %v; ETTR %s in closed form\n", s.Between, s.Young, s.Daly, s.ETTR)
	}
	fmt.Fprintf(b, "  counted  %s\n", o.Count)
	if o.Note != "" {
		fmt.Fprintf(b, "  note     %s\n", o.Note)
	}
	for _, u := range o.Unknown {
		fmt.Fprintf(b, "  not known: %s\n", u)
	}
	for _, x := range o.Waivers {
		fmt.Fprintf(b, "  waiver: %s\n", x)
	}
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
