package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/convert"
)

// convertFlags are those of tarbert convert.
type convertFlags struct {
	to, rounding, scales, layout, naming string
	keep                                 []string
	shard, memory                        string
	dryRun, tensors                      bool
}

func (f *convertFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.to, "to", "", "format: "+strings.Join(convert.Formats(), ", "))
	flags.StringVar(&f.rounding, "rounding", "", "of int8: compatible (the vendor's tool's, to the bit; default) or exact (float32 scales and codes)")
	flags.StringVar(&f.scales, "scales", "", "of FP8: float32 (default of fp8-block) or ue8m0 (powers of two in a byte; default of fp8)")
	flags.StringVar(&f.layout, "layout", "", "names of tensors: hf or native (the vendor's own); default the source's")
	flags.StringVar(&f.naming, "naming", "", "of the files of w8a8-ascend: huggingface (what vLLM's loader looks for; default) or msmodelslim")
	flags.StringSliceVar(&f.keep, "keep", nil, "pattern of modules left in bfloat16 (repeatable; * is any run of characters)")
	flags.StringVar(&f.shard, "shard-size", "4GiB", "most bytes of tensors in a file, unless one tensor has more")
	flags.StringVar(&f.memory, "memory", "256MiB", "most memory to take; fewer bands are converted at once to keep to it")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the plan (every output tensor, its file, offset and size, and the peak memory) and write nothing")
	flags.BoolVar(&f.tensors, "tensors", false, "also print what became of every tensor, with its error, bound and SQNR")
}

func (f *convertFlags) options(a *app) (convert.Options, error) {
	o := convert.Options{
		Rounding: convert.Rounding(f.rounding), Scales: convert.Scales(f.scales), Layout: convert.Layout(f.layout),
		Naming: convert.Naming(f.naming), Keep: f.keep, Workers: a.cores(),
	}
	var err error
	if o.ShardSize, err = parseBytes(f.shard); err != nil {
		return o, badUsage("--shard-size: %w", err)
	}
	if o.Memory, err = parseBytes(f.memory); err != nil {
		return o, badUsage("--memory: %w", err)
	}
	return o, nil
}

func (a *app) convertCommand() *cobra.Command {
	var f convertFlags
	c := &cobra.Command{
		Use:   "convert SRC DST --to FORMAT",
		Short: "Convert a model's weights for another chip, with every tensor accounted for",
		Long: `Convert a Hugging Face model directory or a training checkpoint to another weight format.
Sources are safetensors: F32, F16, BF16, DeepSeek's FP8 in blocks, and FP4 experts. Every source tensor is
mapped exactly once or dropped with a reason, and its error is bounded; DST appears complete or not at all;
the same command goes on after a crash. Formats:
` + formatList(),
		Example: `  tarbert convert DeepSeek-V3 v3-int8 --to w8a8-ascend --dry-run
  tarbert convert DeepSeek-V3 v3-int8 --to w8a8-ascend
  tarbert convert check DeepSeek-V3 v3-int8`,
		Args: exactArgs(2, "a source and a destination directory"),
		RunE: func(c *cobra.Command, args []string) error { return a.runConvert(c, args[0], args[1], &f) },
	}
	f.add(c)
	c.AddCommand(a.convertCheckCommand())
	return c
}

func formatList() string {
	var rows [][]string
	for _, name := range convert.Formats() {
		rows = append(rows, []string{"  " + name, convert.Describe(name)})
	}
	return strings.TrimSuffix(table(rows), "\n")
}

func (a *app) runConvert(c *cobra.Command, src, dst string, f *convertFlags) error {
	if f.to == "" {
		return badUsage("convert needs --to; formats: %s", strings.Join(convert.Formats(), ", "))
	}
	o, err := f.options(a)
	if err != nil {
		return err
	}
	if f.dryRun {
		plan, err := convert.Plan(c.Context(), src, f.to, o)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(plan)
		}
		return renderPlan(a.Out, plan)
	}
	o.Progress = a.bar("convert")
	rep, err := convert.Convert(c.Context(), src, dst, f.to, o)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(rep)
	}
	if f.tensors {
		return rep.WriteText(a.Out)
	}
	_, err = io.WriteString(a.Out, renderConversion(rep))
	return err
}

func (a *app) convertCheckCommand() *cobra.Command {
	var base string
	var tensors bool
	c := &cobra.Command{
		Use: "check SRC DST", Short: "Prove an existing conversion, tensor by tensor, with independent decoders",
		Long: `Prove that DST is a faithful conversion of SRC, whoever made it: every source tensor mapped exactly once or
dropped with a reason, the index the union of the headers, the description complete, scales finite and in
range, every value within the bound of its format's rounding. The first tensor that breaks a rule is named
with the rule, and the command exits with 1. The format is recognised from the files.`,
		Args: exactArgs(2, "the source and the converted directory"),
		RunE: func(c *cobra.Command, args []string) error {
			rep, err := convert.CheckWith(c.Context(), args[0], args[1], convert.CheckOptions{Base: base, Workers: a.cores(), Progress: a.bar("check")})
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(rep)
			} else {
				_, err = io.WriteString(a.Out, renderCheck(rep, tensors))
			}
			if err != nil {
				return environment(err)
			}
			if rep.Violation != nil {
				return gateSaidNo()
			}
			return nil
		},
	}
	c.Flags().StringVar(&base, "base", "", "the model that SRC was fine-tuned from: does DST still differ from it as much as SRC does?")
	c.Flags().BoolVar(&tensors, "tensors", false, "also print every tensor's error, bound and SQNR")
	return c
}
