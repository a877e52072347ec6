package server

import (
	"context"
	"net"
	"testing"
	"time"
)

// A client's spare connection, on which nothing was asked, does not hold up the end.
func TestServeEndsDespiteAConnectionWithoutARequest(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(&fake{}, 512, 256, byteTokenizer(t), Options{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, s) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(4 * time.Second):
		t.Error("Serve waits for a connection on which no request came")
	}
}
