// Command convert measures conversions of whole models beside their peers and the
// disk: cp of what is read and of what is written, PyTorch from safetensors to
// safetensors, msmodelslim and llm-compressor as a user runs them. See README.md.
//
//	go -C bench run ./convert make  -dir DIR [-kind qwen3|deepseek_v3|deepseek_v4] [-gib 4]
//	go -C bench run ./convert run   -tarbert FILE -dir DIR [-python FILE] [-rounds 3] [-jobs fp8-bf16,...]
//	go -C bench run ./convert damage -dir MODEL -kind missing-scale|stale-index|…
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"tarbert/internal/convert/converttest"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: convert make|damage|run [flags]")
		os.Exit(2)
	}
	f := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	dir := f.String("dir", "", "directory for the models; on the disk that is to be measured")
	kind := f.String("kind", "qwen3", "make: qwen3 (BF16), deepseek_v3 (FP8) or deepseek_v4 (FP4 experts); damage: the fault")
	gib := f.Float64("gib", 4, "make: size of the model's tensors")
	tarbert := f.String("tarbert", "", "run: the program")
	python := f.String("python", "", "run: a Python with torch and safetensors; with llmcompressor and msmodelslim for the jobs tools-*")
	rounds := f.Int("rounds", 3, "run: how often each is measured, in turn")
	jobs := f.String("jobs", "fp8-bf16,fp8-int8,bf16-int8", "run: which conversions")
	f.Parse(os.Args[2:])
	var err error
	switch os.Args[1] {
	case "make":
		err = makeModel(*dir, *kind, int64(*gib*(1<<30)))
	case "damage":
		err = converttest.DamageFiles(*dir, *kind)
	case "run":
		r := runner{dir: *dir, tarbert: *tarbert, python: *python, rounds: *rounds}
		for _, name := range strings.Split(*jobs, ",") {
			if err = r.job(name); err != nil {
				break
			}
		}
	default:
		err = fmt.Errorf("no such command: %s", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}
