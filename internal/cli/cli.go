package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what every command shares.
type app struct {
	IO
	home    string
	json    bool
	threads int
	now     func() time.Time
}

// Run executes one command line and returns the process's exit code.
func Run(ctx context.Context, args []string, streams IO) int {
	a := &app{IO: streams, now: time.Now}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &code) && code.err == nil:
		return code.code
	}
	fmt.Fprintf(a.Err, "tarbert: %v\n", err)
	return classify(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tarbert",
		Short: "Take a language model from the chips it is trained on to the chips it is served on, with proof",
		Long: `Tarbert takes a language model from labelled data, through training on the chips where it can be
trained, to verified inference on the chips where it must be served, and signs what it proved.

Try it:  tarbert release run examples/sums`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return badUsage("%w\n\n%s", err, c.UsageString())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.home, "home", ".tarbert", "folder with the journal, the artifacts and the releases")
	flags.BoolVar(&a.json, "json", false, "print the result as one JSON value")
	flags.IntVar(&a.threads, "threads", 0, "processors to use; 0 = all")
	root.AddCommand(
		a.releaseCommand(),
		a.devicesCommand(),
		a.untilCommand("label", "Adjudicate the annotations and make the dataset"),
		a.planCommand(),
		a.forecastCommand(),
		a.decideCommand(),
		a.untilCommand("qualify", "Ask the planned devices whether they are fit for the recipe"),
		a.untilCommand("train", "Train under supervision, up to a verified checkpoint"),
		a.convertCommand(),
		a.scoreCommand(),
		a.tokenizeCommand(),
		a.verifyCommand(),
		a.compareCommand(),
		a.serveCommand(),
		a.certificateCommand(),
		a.shimCommand(),
		a.trainerCommand(),
		a.torchrunCommand(),
	)
	return root
}

// terminal says whether w is one, and how wide.
func terminal(w io.Writer) (bool, int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, 100
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return true, 100
	}
	return true, width
}

// printJSON writes v to standard output as indented JSON.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// version is the module's version and, where it was built from a checkout, the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value[:min(12, len(s.Value))]
		}
	}
	if v == "" {
		v = "(devel)"
	}
	return v
}
