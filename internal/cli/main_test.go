package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"tarbert/internal/convert/converttest"
)

// The test binary is the program: scripts call it as tarbert, and it starts
// itself as shim, trainer and engine, as the real one does.
func TestMain(m *testing.M) {
	if os.Getenv("TARBERT_TEST_PROGRAM") != "" && filepath.Base(os.Args[0]) != "damage" {
		os.Exit(program(os.Args[1:]))
	}
	// Tasks are started with this binary: they must find the program in it.
	os.Setenv("TARBERT_TEST_PROGRAM", "1")
	testscript.Main(m, map[string]func(){
		"tarbert": func() { os.Exit(program(os.Args[1:])) },
		"damage":  func() { os.Exit(damage(os.Args[1], os.Args[2])) },
	})
}

func program(args []string) int {
	if len(args) == 2 && args[0] == "stored-trainer" {
		if err := storedTrainer(args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) == 2 && args[0] == "contract-trainer" {
		if err := contractTrainer(ctx, args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	return Run(ctx, args, IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
}

// damage plants a fault in a model directory.
func damage(dir, kind string) int {
	if err := converttest.DamageFiles(dir, kind); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			root, err := os.Getwd()
			if err != nil {
				return err
			}
			env.Setenv("ROOT", root+"/../..")
			env.Setenv("TARBERT_TEST_PROGRAM", "1")
			return nil
		},
	})
}
