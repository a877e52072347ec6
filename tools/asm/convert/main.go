// Command convert writes the assembly of internal/convert/kernel. Run it by
// "go generate ./internal/convert/kernel".
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	flags := flag.NewFlagSet("convert", flag.ExitOnError) // avo has taken the default set's names
	out := flags.String("out", ".", "directory to write the files to")
	flags.Parse(os.Args[1:])
	if err := generate(*out); err != nil {
		fmt.Fprintln(os.Stderr, "convert:", err)
		os.Exit(1)
	}
}

// files names each assembly file and the function that fills it.
func files() map[string]func(*build.Context) {
	return map[string]func(*build.Context){
		"codes": func(c *build.Context) {
			fp8(c)
			fp8Narrow(c)
			fp4(c)
			expand(c)
			finite(c)
			e4m3(c)
			for _, s := range []isa{avx512, avx2} {
				widen(c, s)
				round(c, s)
				maxAbs(c, s)
				maxAbs16(c, s)
				int8Short(c, s)
				for _, from := range []string{"F32", "BF16"} {
					int8(c, s, from, false)
					int8(c, s, from, true)
				}
			}
		},
		"loss": func(c *build.Context) {
			for _, s := range []isa{avx512, avx2} {
				roundLoss(c, s)
				int8Loss(c, s)
				int8Noise(c, s)
				e4m3Loss(c, s)
			}
		},
	}
}

func generate(dir string) error {
	for name, emit := range files() {
		c := build.NewContext()
		emit(c)
		f, err := c.Result()
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		if err := pass.Compile.Execute(f); err != nil {
			return fmt.Errorf("compile %s: %w", name, err)
		}
		if err := sixteen(f); err != nil {
			return fmt.Errorf("compile %s: %w", name, err)
		}
		cfg := printer.Config{Name: "tools/asm/convert", Pkg: "kernel"}
		for file, p := range map[string]printer.Printer{
			name + "_amd64.s":        printer.NewGoAsm(cfg),
			name + "_stubs_amd64.go": printer.NewStubs(cfg),
		} {
			b, err := p.Print(f)
			if err != nil {
				return fmt.Errorf("print %s: %w", file, err)
			}
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
		}
	}
	return nil
}

// sixteen refuses registers that only AVX-512 has in functions for AVX2: the
// allocator does not know which processor a function is for.
func sixteen(f *ir.File) error {
	high := regexp.MustCompile(`^[XY](1[6-9]|[23][0-9])$`)
	for _, fn := range f.Functions() {
		if !strings.HasSuffix(fn.Name, "AVX2") {
			continue
		}
		for _, i := range fn.Instructions() {
			for _, o := range i.Operands {
				if r, ok := o.(reg.Physical); ok && high.MatchString(r.Asm()) {
					return fmt.Errorf("%s uses %s: it needs more than sixteen registers", fn.Name, r.Asm())
				}
			}
		}
	}
	return nil
}
