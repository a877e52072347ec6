package cli

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"tarbert/internal/convert"
	"tarbert/internal/progress"
)

// parseBytes reads a number of bytes: 4GiB, 500MB, 1048576.
func parseBytes(s string) (int64, error) {
	units := []struct {
		suffix string
		factor int64
	}{
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
		{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"B", 1}, {"", 1},
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(strings.TrimSpace(s), u.suffix)
		if !ok {
			continue
		}
		x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(x > 0 && x*float64(u.factor) < 1<<62) {
			break
		}
		return int64(x * float64(u.factor)), nil
	}
	return 0, fmt.Errorf("%q is not a number of bytes: give one such as 4GiB, 500MB or 1048576", s)
}

// bar shows progress of a single command on a terminal, on one line.
func (a *app) bar(stage string) progress.Func {
	tty, width := terminal(a.Err)
	if !tty {
		return nil
	}
	last := a.now()
	return func(u progress.Update) {
		now := a.now()
		if u.Done < u.Total && now.Sub(last) < redrawEvery {
			return
		}
		last = now
		line := fmt.Sprintf("  %-9s %s %.0f/%.0f %s %s", stage, bar(u.Done, u.Total), u.Done, u.Total, u.Unit, u.Note)
		fmt.Fprint(a.Err, "\r\x1b[2K"+clip(line, width-1))
		if u.Total > 0 && u.Done >= u.Total {
			fmt.Fprint(a.Err, "\r\x1b[2K")
		}
	}
}

// shapeText is [2048,512].
func shapeText(s []int64) string {
	return strings.ReplaceAll(fmt.Sprint(s), " ", ",")
}

// renderPlan prints one line for each tensor of the destination, then the files and
// the totals. There may be 100,000: the columns' widths come from a first pass.
func renderPlan(w io.Writer, p *convert.PlanReport) error {
	rows := [][]string{{"tensor", "type", "shape", "file", "offset", "bytes", "from"}}
	for _, t := range p.Tensors {
		rows = append(rows, []string{t.Name, t.DType, shapeText(t.Shape), t.File, strconv.FormatInt(t.Offset, 10), strconv.FormatInt(t.Size, 10),
			fmt.Sprintf("%s: %s, %s", t.From, t.Action, t.Reason)})
	}
	for _, d := range p.Dropped {
		rows = append(rows, []string{"-", d.From, shapeText(d.Shape), "-", "-", "-", fmt.Sprintf("%s: dropped, %s", d.Name, d.Reason)})
	}
	files := [][]string{{"file", "tensors", "bytes"}}
	for _, f := range p.Files {
		files = append(files, []string{f.Name, strconv.Itoa(f.Tensors), strconv.FormatInt(f.Size, 10)})
	}
	totals := [][]string{
		{"format", p.Format + " of " + p.Architecture},
		{"tensors", fmt.Sprintf("%d out in %d files, %d of the source dropped", len(p.Tensors), len(p.Files), len(p.Dropped))},
		{"size", fmt.Sprintf("%s of tensors → %s of files", bytesText(p.BytesIn), bytesText(p.BytesOut))},
		{"work", fmt.Sprintf("%d bands, %d at once", p.Bands, p.Workers)},
		{"peak memory", "at most " + bytesText(p.PeakMemory)},
	}
	b := bufio.NewWriter(w)
	for i, t := range []string{table(rows), table(files), table(totals)} {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(t)
	}
	return b.Flush() // with the first error of any write
}

func renderConversion(r *convert.Report) string {
	t := r.Totals
	rows := [][]string{
		{"format", formatText(r)},
		{"tensors", countsText(t)},
		{"size", fmt.Sprintf("%s → %s", bytesText(t.BytesIn), bytesText(t.BytesOut))},
	}
	if r.Resumed > 0 {
		rows = append(rows, []string{"taken over", bytesText(r.Resumed) + ", read back, of a conversion that was interrupted"})
	}
	if t.WorstTensor != "" {
		rows = append(rows, []string{"worst SQNR", fmt.Sprintf("%.1f dB in %s", t.WorstSQNR, t.WorstTensor)})
	}
	if t.CompatibleSQNR > 0 {
		rows = append(rows, []string{"int8 SQNR", fmt.Sprintf("%.2f dB with compatible rounding, %.2f dB with exact; written: %s", t.CompatibleSQNR, t.ExactSQNR, r.Rounding)})
	}
	if t.Tiles > 0 {
		rows = append(rows, []string{"FP4 tiles", fmt.Sprintf("%d, each proved to hold the same numbers in FP8", t.Tiles)})
	}
	used := map[string]bool{}
	for _, t := range r.Tensors {
		used[t.Reason] = true
	}
	for _, rule := range r.Ignored {
		if used[rule.Reason] {
			rows = append(rows, []string{"left float", fmt.Sprintf("%s: %s", rule.Match, rule.Reason)})
		}
	}
	return table(append(rows, []string{"digest", r.Digest}))
}

// formatText is the format with the choices that it has.
func formatText(r *convert.Report) string {
	var choices []string
	if r.Totals.CompatibleSQNR > 0 {
		choices = append(choices, string(r.Rounding)+" rounding")
	}
	if r.Scales != "" {
		choices = append(choices, string(r.Scales)+" scales")
	}
	if r.Layout != "" {
		choices = append(choices, string(r.Layout)+" names")
	}
	if len(choices) == 0 {
		return r.Format
	}
	return r.Format + " (" + strings.Join(choices, ", ") + ")"
}

// countsText says what became of the source's tensors, leaving out what none did.
func countsText(t convert.Totals) string {
	var parts []string
	for _, c := range []struct {
		n    int
		what convert.Action
	}{{t.Quantised, convert.Quantised}, {t.Dequantised, convert.Dequantised}, {t.Expanded, convert.Expanded},
		{t.Cast, convert.Cast}, {t.Copied, convert.Copied}, {t.Dropped, convert.Dropped}} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	return fmt.Sprintf("%d in: %s; %d out", t.Tensors, strings.Join(parts, ", "), t.Outputs)
}

func renderCheck(r *convert.CheckReport, tensors bool) string {
	var text string
	if tensors {
		rows := [][]string{{"tensor", "from", "to", "SQNR", "largest error", "of bound"}}
		for _, m := range r.Measured {
			sqnr := "exact"
			if m.MaxAbsError > 0 {
				sqnr = fmt.Sprintf("%.2f dB", m.SQNR)
			}
			rows = append(rows, []string{m.Name, m.From, m.To, sqnr, fmt.Sprintf("%.3g", m.MaxAbsError), fmt.Sprintf("%.3g", m.Bound)})
		}
		text = table(rows) + "\n"
	}
	rows := [][]string{
		{"format", checkedText(r)},
		{"tensors", fmt.Sprintf("%d of the source accounted for, %d quantised, %d elements compared", r.Tensors, r.Quantised, r.Elements)},
		{"rules held", strings.Join(r.Rules, ", ")},
	}
	if r.WorstTensor != "" {
		rows = append(rows, []string{"worst SQNR", fmt.Sprintf("%.1f dB in %s", r.WorstSQNR, r.WorstTensor)})
	}
	if codes := histogram(r.Codes); codes != "" {
		rows = append(rows, []string{"int8 codes", codes})
	}
	if b := r.Base; b != nil {
		rows = append(rows, []string{"fine-tune", baseText(b)})
	}
	if v := r.Violation; v != nil {
		rows = append(rows, []string{"BROKEN", v.Error()})
	}
	return text + table(rows)
}

// baseText says how much of a fine-tune is left.
func baseText(b *convert.BaseReport) string {
	if b.Changed == 0 {
		return fmt.Sprintf("none: all %d weights of the source are those of %s", b.Same, b.Base)
	}
	return fmt.Sprintf("%.2f %% kept; it changed %d weights by %.2g of their norm and left %d as in %s", 100*b.Kept, b.Changed, b.Trained, b.Same, b.Base)
}

// checkedText is the format, with the rounding that a record of ours names.
func checkedText(r *convert.CheckReport) string {
	if r.Rounding == "" {
		return r.Format
	}
	return fmt.Sprintf("%s (%s rounding)", r.Format, r.Rounding)
}

// histogram draws the int8 codes from -128 to 127, sixteen to a column, and says how
// many lie at the ends.
func histogram(codes []int64) string {
	const columns = 16
	var sums [columns]int64
	var most, all int64
	for i, n := range codes {
		sums[i*columns/len(codes)] += n
		most, all = max(most, sums[i*columns/len(codes)]), all+n
	}
	if all == 0 {
		return ""
	}
	var b strings.Builder
	for _, n := range sums {
		b.WriteRune([]rune(" ▁▂▃▄▅▆▇█")[(n*8+most-1)/most])
	}
	ends := codes[0] + codes[1] + codes[len(codes)-1]
	return fmt.Sprintf("-128 %s 127   %.3g %% at -128, -127 or 127", b.String(), 100*float64(ends)/float64(all))
}
