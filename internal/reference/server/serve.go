package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve answers on ln until ctx ends. Then it refuses new requests, lets the
// running ones finish for Options.Drain, cuts off the rest, and returns nil.
// It closes ln and s.
func Serve(ctx context.Context, ln net.Listener, s *Server) error {
	defer s.Close()
	var fresh freshConns
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ConnState:         fresh.track,
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(ln) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	s.closing.Store(true)
	fresh.close()
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

// freshConns are connections on which no request has come yet: clients dial
// spare ones. Shutdown would wait five seconds for each.
type freshConns struct {
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func (f *freshConns) track(c net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(f.conns, c)
	case f.closed:
		c.Close()
	default:
		if f.conns == nil {
			f.conns = map[net.Conn]bool{}
		}
		f.conns[c] = true
	}
}

func (f *freshConns) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for c := range f.conns {
		c.Close()
	}
}
