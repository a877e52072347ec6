package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/convert"
	"tarbert/internal/progress"
)

func (a *app) convertCommand() *cobra.Command {
	var to, rounding string
	var keep []string
	var shard int64
	c := &cobra.Command{
		Use:   "convert SRC DST --to FORMAT",
		Short: "Convert a model's weights for another chip, with every tensor accounted for",
		Long: `Convert a Hugging Face model directory or a training checkpoint to another weight format.
Every source tensor is mapped exactly once or dropped with a reason, and its error is bounded; DST appears
complete or not at all. Formats: ` + strings.Join(convert.Formats(), ", ") + `.`,
		Args: exactArgs(2, "a source and a destination directory"),
		RunE: func(c *cobra.Command, args []string) error {
			if to == "" {
				return badUsage("convert needs --to; formats: %s", strings.Join(convert.Formats(), ", "))
			}
			rep, err := convert.Convert(c.Context(), args[0], args[1], to, convert.Options{
				Keep: keep, ShardSize: shard, Workers: a.cores(), Rounding: convert.Rounding(rounding), Progress: a.bar("convert"),
			})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(rep)
			}
			fmt.Fprint(a.Out, renderConversion(rep))
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "format: "+strings.Join(convert.Formats(), ", "))
	c.Flags().StringSliceVar(&keep, "keep", nil, "pattern of modules left in bfloat16 (repeatable; * is any run of characters)")
	c.Flags().Int64Var(&shard, "shard-size", 0, "most bytes of tensors in a file; 0 = 4 GiB")
	c.Flags().StringVar(&rounding, "rounding", "", "compatible (as the vendor's tool, default) or exact (float32 arithmetic)")
	c.AddCommand(&cobra.Command{
		Use: "check SRC DST", Short: "Prove an existing conversion, tensor by tensor, with independent decoders",
		Args: exactArgs(2, "the source and the converted directory"),
		RunE: func(c *cobra.Command, args []string) error {
			rep, err := convert.Check(c.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			if a.json {
				if err := a.printJSON(rep); err != nil {
					return environment(err)
				}
			} else {
				fmt.Fprint(a.Out, renderCheck(rep))
			}
			if rep.Violation != nil {
				return gateSaidNo()
			}
			return nil
		},
	})
	return c
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

func renderConversion(r *convert.Report) string {
	t := r.Totals
	rows := [][]string{
		{"format", r.Format + " (" + string(r.Rounding) + " rounding)"},
		{"tensors", fmt.Sprintf("%d in: %d quantised, %d cast, %d copied, %d dropped; %d out", t.Tensors, t.Quantised, t.Cast, t.Copied, t.Dropped, t.Outputs)},
		{"size", fmt.Sprintf("%s → %s", bytesText(t.BytesIn), bytesText(t.BytesOut))},
	}
	if t.WorstTensor != "" {
		rows = append(rows, []string{"worst SQNR", fmt.Sprintf("%.1f dB in %s", t.WorstSQNR, t.WorstTensor)})
	}
	for _, rule := range r.Ignored {
		rows = append(rows, []string{"left float", fmt.Sprintf("%s: %s", rule.Match, rule.Reason)})
	}
	return table(append(rows, []string{"digest", r.Digest}))
}

func renderCheck(r *convert.CheckReport) string {
	rows := [][]string{
		{"format", r.Format},
		{"tensors", fmt.Sprintf("%d of the source accounted for, %d quantised, %d elements compared", r.Tensors, r.Quantised, r.Elements)},
		{"rules held", strings.Join(r.Rules, ", ")},
	}
	if r.WorstTensor != "" {
		rows = append(rows, []string{"worst SQNR", fmt.Sprintf("%.1f dB in %s", r.WorstSQNR, r.WorstTensor)})
	}
	if v := r.Violation; v != nil {
		rows = append(rows, []string{"BROKEN", v.Error()})
	}
	return table(rows)
}
