package kernel

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestHelpersServeAllPools runs several pools at once, so that helpers that
// finished for one are taken by another.
func TestHelpersServeAllPools(t *testing.T) {
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			p := NewPool(3)
			for round := range 300 {
				var sum atomic.Int64
				p.Run(round%9, func(i int) { sum.Add(int64(i + 1)) })
				if n := int64(round % 9); sum.Load() != n*(n+1)/2 {
					t.Errorf("round %d: sum %d", round, sum.Load())
				}
			}
			if p.spare.Load() != 2 {
				t.Errorf("%d threads spare of 2", p.spare.Load())
			}
		})
	}
	wait.Wait()
}

func TestPanicInAHelperReachesTheCaller(t *testing.T) {
	p := NewPool(2)
	for range 50 { // whoever gets the bad index
		func() {
			defer func() {
				if recover() != "bad" {
					t.Error("no panic")
				}
			}()
			p.Run(8, func(i int) {
				if i == 5 {
					panic("bad")
				}
			})
		}()
	}
	if p.spare.Load() != 1 {
		t.Errorf("%d threads spare of 1", p.spare.Load())
	}
}
