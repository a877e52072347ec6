package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"tarbert/internal/reference/trainer"
)

// shimCommand and trainerCommand are how tasks run this program. People have no use for them.

func (a *app) shimCommand() *cobra.Command {
	return &cobra.Command{
		Use: "shim DIR", Hidden: true, Args: cobra.ExactArgs(1), DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if code := runShim(args[0]); code != 0 {
				return exitCode{code: code}
			}
			return nil
		},
	}
}

func (a *app) trainerCommand() *cobra.Command {
	return &cobra.Command{
		Use: "trainer", Hidden: true, Args: cobra.NoArgs,
		Short: "The reference trainer, speaking the trainer contract",
		RunE: func(c *cobra.Command, _ []string) error {
			env := trainer.Env{
				Events: os.Getenv("TARBERT_EVENTS"), Checkpoints: os.Getenv("TARBERT_CHECKPOINTS"),
				Resume: os.Getenv("TARBERT_RESUME"), Recipe: os.Getenv("TARBERT_RECIPE"),
				Adjust: os.Getenv("TARBERT_ADJUST"), Replay: os.Getenv("TARBERT_REPLAY"),
			}
			if env.Events == "" || env.Checkpoints == "" || env.Recipe == "" {
				return badUsage("trainer speaks the trainer contract: set TARBERT_EVENTS, TARBERT_CHECKPOINTS and TARBERT_RECIPE (docs/formats.md)")
			}
			err := trainer.Run(c.Context(), env)
			if errors.Is(err, trainer.ErrStopped) {
				return environment(fmt.Errorf("asked to stop: %w", err))
			}
			return err
		},
	}
}
