// Command kernel measures the reference model's kernels beside the machine's
// peak and beside gonum, and prints a table.
//
// Everything is measured in turns, round after round, in one run: on a shared
// machine figures of different minutes do not compare.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/klauspost/cpuid/v2"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/gonum"

	"tarbert/internal/reference/kernel"
)

func main() {
	rounds := flag.Int("rounds", 15, "how often everything is measured")
	clock := flag.String("clock", "wall", `what rates are divided by: "wall", or "cpu" where others use the machine: the processor time of one thread`)
	flag.Parse()
	now := map[string]func() time.Duration{"wall": wallClock(time.Now()), "cpu": processorTime}[*clock]
	if now == nil || *rounds < 1 {
		fmt.Fprintln(os.Stderr, "kernel: -clock is wall or cpu, -rounds at least 1")
		os.Exit(2)
	}
	report(os.Stdout, *rounds, *clock, now)
}

func wallClock(start time.Time) func() time.Duration {
	return func() time.Duration { return time.Since(start) }
}

// processorTime is what this process has used. A thread that is kept waiting
// uses none, so other programs disturb it only through the caches.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are constant
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measurement is one line of a table: something to run, and the rates it reached.
type measurement struct {
	name    string
	threads int
	ops     float64 // operations of one run
	run     func()
	rates   []float64 // 10^9 a second, one per round
}

func report(w io.Writer, rounds int, clock string, now func() time.Duration) {
	threads := min(runtime.GOMAXPROCS(0), 2)
	if clock == "cpu" {
		threads = 1 // processor time says nothing of how threads share the machine
	}
	float32s := append(squares(threads), shapes(threads)...)
	int8s := int8Shapes(threads)
	peaks := make(map[int][]float64)
	for range rounds {
		for n := 1; n <= threads; n++ {
			peaks[n] = append(peaks[n], kernel.MeasurePeakGFLOPS(n, 2*time.Millisecond))
		}
		for _, m := range slices.Concat(float32s, int8s) {
			m.measure(now)
		}
	}
	fmt.Fprintf(w, "%s, %d logical cores, kernels: %s (products by %s), %s; medians of %d rounds, all measured in turns, by the %s clock.\n\n",
		cpuid.CPU.BrandName, runtime.NumCPU(), kernel.Describe(), kernel.Products(), runtime.Version(), rounds, clock)
	fmt.Fprintf(w, "| float32 | threads | GFLOP/s (best) | of the FMA peak |\n|---|---|---|---|\n")
	for n := 1; n <= threads; n++ {
		fmt.Fprintf(w, "| FMA in registers, the peak | %d | %.0f (%.0f) | |\n", n, median(peaks[n]), slices.Max(peaks[n]))
	}
	for _, m := range float32s {
		var ratios []float64 // of the same round, so that a slow minute divides out
		for i, r := range m.rates {
			ratios = append(ratios, r/peaks[m.threads][i])
		}
		fmt.Fprintf(w, "| %s | %d | %.1f (%.1f) | %.0f %% |\n", m.name, m.threads, median(m.rates), slices.Max(m.rates), 100*median(ratios))
	}
	fmt.Fprintf(w, "\n| int8 | threads | GOP/s (best) |\n|---|---|---|\n")
	for _, m := range int8s {
		fmt.Fprintf(w, "| %s | %d | %.0f (%.0f) |\n", m.name, m.threads, median(m.rates), slices.Max(m.rates))
	}
}

// measure repeats the run for about two milliseconds, at least once, and keeps
// the best of three.
func (m *measurement) measure(now func() time.Duration) {
	repeat := 1
	best := time.Duration(0)
	for i := 0; i < 3; i++ {
		from := now()
		for range repeat {
			m.run()
		}
		took := max(now()-from, 1)
		if repeat == 1 && took < time.Millisecond {
			repeat = int(2*time.Millisecond/took) + 1
			i--
			continue
		}
		if each := max(took/time.Duration(repeat), 1); best == 0 || each < best {
			best = each
		}
		if took > 100*time.Millisecond {
			break
		}
	}
	m.rates = append(m.rates, m.ops/float64(best.Nanoseconds()))
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

// matrix fills n floats with small whole numbers.
func matrix(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i%7) - 3
	}
	return x
}

// squares are the sizes that libraries are compared by, with gonum beside.
func squares(threads int) []*measurement {
	var list []*measurement
	for _, n := range []int{256, 512, 1024, 2048} {
		a, b, c := matrix(n*n), matrix(n*n), make([]float32, n*n)
		for t := 1; t <= threads; t++ {
			list = append(list, product(fmt.Sprintf("%d³", n), t, n, n, n))
		}
		if n > 1024 {
			continue // gonum takes seconds
		}
		list = append(list, &measurement{name: fmt.Sprintf("%d³, gonum, which takes all cores", n), threads: threads,
			ops: 2 * float64(n) * float64(n) * float64(n), run: func() {
				gonum.Implementation{}.Sgemm(blas.NoTrans, blas.NoTrans, n, n, n, 1, a, n, b, n, 0, c, n)
			}})
	}
	return list
}

func product(name string, threads, m, n, k int) *measurement {
	a, b, c := kernel.Dense(matrix(m*k), m, k), kernel.Dense(matrix(k*n), k, n), kernel.Dense(make([]float32, m*n), m, n)
	pool := kernel.NewPool(threads)
	return &measurement{name: name, threads: threads, ops: 2 * float64(m) * float64(n) * float64(k),
		run: func() { kernel.Gemm(pool, a, b, c, false) }}
}

// shapes are those of a small mixture-of-experts model: training batches over
// whole layers and single experts, and decoding.
func shapes(threads int) []*measurement {
	var list []*measurement
	add := func(name string, threads, m, n, k int, run func(p *kernel.Pool, x, y, z kernel.Mat) func()) {
		x, z := kernel.Dense(matrix(m*k), m, k), kernel.Dense(make([]float32, m*n), m, n)
		y := kernel.Dense(matrix(n*k), n, k).Transpose() // weights come as [out, in]
		list = append(list, &measurement{name: fmt.Sprintf("%s, %d×%d×%d", name, m, n, k), threads: threads,
			ops: 2 * float64(m) * float64(n) * float64(k), run: run(kernel.NewPool(threads), x, y, z)})
	}
	fresh := func(p *kernel.Pool, x, y, z kernel.Mat) func() {
		return func() { kernel.Gemm(p, x, y, z, false) }
	}
	packed := func(p *kernel.Pool, x, y, z kernel.Mat) func() {
		w := kernel.Pack(y)
		return func() { kernel.GemmPacked(p, x, w, z, false) }
	}
	weightGradient := func(p *kernel.Pool, x, y, z kernel.Mat) func() {
		dy, dw := kernel.Dense(matrix(z.Rows*z.Cols), z.Rows, z.Cols), kernel.Dense(make([]float32, z.Cols*x.Cols), z.Cols, x.Cols)
		return func() { kernel.Gemm(p, dy.Transpose(), x, dw, true) }
	}
	for t := 1; t <= threads; t++ {
		for _, n := range []int{64, 96, 256} {
			add("x·Wᵀ", t, 2000, n, 96, fresh)
		}
		add("dyᵀ·x", t, 2000, 96, 96, weightGradient)
		add("decode, W packed", t, 256, 96, 96, packed)
	}
	add("one expert, x·Wᵀ", 1, 100, 64, 96, fresh)
	add("one expert, W packed", 1, 100, 64, 96, packed)
	add("one expert, W packed", 1, 16, 64, 96, packed)
	add("one token, W packed", 1, 1, 96, 96, packed)
	add("one token, W packed", 1, 1, 1024, 1024, packed)
	return list
}

func int8Shapes(threads int) []*measurement {
	var list []*measurement
	for _, s := range [][3]int{{1024, 1024, 1024}, {2000, 64, 96}, {256, 96, 96}, {1, 1024, 1024}} {
		m, n, k := s[0], s[1], s[2]
		for t := 1; t <= threads; t++ {
			a, b, c := make([]int8, m*k), kernel.PackInt8(make([]int8, n*k), n, k), make([]int32, m*n)
			pool := kernel.NewPool(t)
			list = append(list, &measurement{name: fmt.Sprintf("%d×%d×%d", m, n, k), threads: t,
				ops: 2 * float64(m) * float64(n) * float64(k), run: func() { kernel.GemmInt8(pool, a, m, k, b, c) }})
		}
	}
	return list
}
