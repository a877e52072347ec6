// Command tarbert takes a language model from labelled data, through training,
// to verified inference on other chips, and signs what it proved.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"tarbert/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
