package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"tarbert/internal/reference"
	"tarbert/internal/reference/server"
	"tarbert/internal/reference/tokenizer"
)

type serveFlags struct {
	precision, addr, name string
	apiKeys               []string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	c := &cobra.Command{
		Use:   "serve MODEL",
		Short: "Serve a model directory over HTTP, in vLLM's dialect of OpenAI's API",
		Args:  exactArgs(1, "a model directory (config.json, safetensors, tokenizer)"),
		RunE:  func(c *cobra.Command, args []string) error { return a.serve(c.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.precision, "precision", "", "f32, bf16 or w8a8; default: what the weights are stored for")
	c.Flags().StringVar(&f.addr, "addr", "127.0.0.1:8000", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.name, "name", "", "model name that clients ask for; default: the directory's name")
	c.Flags().StringSliceVar(&f.apiKeys, "api-key", nil, "require this key on /v1 (repeatable); also TARBERT_API_KEY")
	return c
}

func (a *app) serve(ctx context.Context, dir string, f serveFlags) error {
	model, err := reference.Load(dir, reference.Options{Precision: reference.Precision(f.precision), Threads: a.cores()})
	if err != nil {
		return err
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		return err
	}
	defaults, err := server.ReadDefaults(dir)
	if err != nil {
		return err
	}
	name := f.name
	if name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return environment(err)
		}
		name = filepath.Base(abs)
	}
	if key := os.Getenv("TARBERT_API_KEY"); key != "" {
		f.apiKeys = append(f.apiKeys, key)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", f.addr)
	if err != nil {
		return environment(fmt.Errorf("listen on %s: %w; choose another address with --addr", f.addr, err))
	}
	s := server.New(model, tok, server.Options{Model: name, Root: dir, Version: version(), APIKeys: f.apiKeys, Defaults: defaults})
	fmt.Fprintf(a.Err, "serving %s at http://%s/v1 (Ctrl-C stops)\n", name, ln.Addr())
	if err := server.Serve(ctx, ln, s); err != nil && !errors.Is(err, context.Canceled) {
		return environment(err)
	}
	return nil
}
