// Command asm writes the assembly of internal/reference/kernel.
//
// It has a module of its own so that avo stays out of the product's go.mod.
// Run it by "go generate ./internal/reference/kernel".
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

func main() {
	flags := flag.NewFlagSet("asm", flag.ExitOnError) // avo has taken the default set's names
	out := flags.String("out", ".", "directory to write the files to")
	flags.Parse(os.Args[1:])
	if err := generate(*out); err != nil {
		fmt.Fprintln(os.Stderr, "asm:", err)
		os.Exit(1)
	}
}

// files names each assembly file and the function that fills it.
func files() map[string]func(*build.Context) {
	return map[string]func(*build.Context){
		"tile":      tiles,
		"wide":      wides,
		"transpose": transposes,
		"copy":      copies,
		"vector":    vectors,
		"norm":      norms,
		"int8":      int8s,
		"peak":      peaks,
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
		cfg := printer.Config{Name: "tools/asm", Pkg: "kernel"}
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
