package cli

import (
	"bufio"
	"errors"

	"github.com/spf13/cobra"

	"tarbert/internal/reference/tokenizer"
)

func (a *app) tokenizeCommand() *cobra.Command {
	var input string
	c := &cobra.Command{
		Use:   "tokenize MODEL --input FILE.jsonl",
		Short: "Token ids of texts and chats, as the model's tokenizer and template give them",
		Long: `Reads lines {"id":"…","text":"…"} or {"id":"…","messages":[…],"options":{…}} and writes {"id":"…","tokens":[…],"text":"…"}.
No special tokens are added to plain text. MODEL needs only the tokenizer's files.`,
		Args: exactArgs(1, "a directory with tokenizer.json"),
		RunE: func(c *cobra.Command, args []string) error {
			if input == "" {
				return badUsage("tokenize needs --input FILE.jsonl (or - for standard input)")
			}
			tok, err := tokenizer.Load(args[0])
			if err != nil {
				return err
			}
			in, err := a.open(input)
			if err != nil {
				return err
			}
			defer in.Close()
			out := bufio.NewWriter(a.Out)
			return errors.Join(tok.TokenizeLines(c.Context(), input, in, out), out.Flush())
		},
	}
	c.Flags().StringVar(&input, "input", "", "JSON Lines file; - for standard input")
	return c
}
