package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Serve answers on ln until ctx ends. Then it refuses new requests, lets the
// running ones finish for Options.Drain, cuts off the rest, and returns nil.
// It closes ln and s.
func Serve(ctx context.Context, ln net.Listener, s *Server) error {
	defer s.Close()
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.closing.Store(true)
	closed := make(chan struct{})
	go func() { // ends running requests after Options.Drain, so that Shutdown ends too
		defer close(closed)
		s.Close()
	}()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.Drain+5*time.Second)
	defer cancel()
	err := h.Shutdown(grace)
	<-closed
	if err != nil {
		err = errors.Join(fmt.Errorf("shut down: %w", err), h.Close())
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
