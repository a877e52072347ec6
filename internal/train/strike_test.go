package train

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// strike does what the plan has for this rank before a step.
func (g *group) strike(step, r int) (code int, over bool) {
	die := func(sig syscall.Signal) {
		_ = syscall.Kill(os.Getpid(), sig)
		select {} // a SIGSTOP may be undone
	}
	switch {
	case g.strikes("kill", step, r):
		die(syscall.SIGKILL)
	case g.strikes("segv", step, r):
		debug.SetTraceback("none")
		signal.Reset(syscall.SIGSEGV)
		die(syscall.SIGSEGV)
	case g.strikes("abort", step, r):
		debug.SetTraceback("none")
		die(syscall.SIGABRT)
	case g.strikes("stop", step, r):
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	case g.strikes("busy", step, r):
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			_ = step // burns a processor, says nothing
		}
	case g.strikes("frozen", step, r): // alive, and says so, and gets nowhere
		for {
			g.say(map[string]any{"event": "heartbeat"})
			g.say(map[string]any{"event": "step", "step": g.step, "loss": 1, "grad_norm": 1, "tokens": 0})
			g.say(map[string]any{"event": "section", "name": "step"})
			<-time.After(20 * time.Millisecond)
		}
	case g.strikes("crash", step, r):
		fmt.Println("RuntimeError: something broke")
		return 7, true
	case g.strikes("exit0", step, r):
		return 0, true
	case g.strikes("exit93", step, r):
		return exitDoNotRestart, true
	case g.strikes("orphan", step, r): // a grandchild that ignores SIGTERM and holds the run's lock
		cmd := exec.Command("/bin/sh", "-c", `trap "" TERM HUP; exec 9>>"$0/writer"; flock 9; sleep 600`, g.notes)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if cmd.Start() == nil {
			_ = os.WriteFile(filepath.Join(g.notes, "orphan"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
			<-time.After(50 * time.Millisecond)
		}
		return 7, true
	case g.strikes("file-limit", step, r): // as a full disk: no file may grow past 4 KiB
		var limit syscall.Rlimit
		if syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit) == nil {
			limit.Cur = 4096
			_ = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
		}
	case g.strikes("chip", step, r):
		g.say(map[string]any{"event": "fault", "chip": "chip-1", "code": "79", "text": "fallen off the bus"})
		die(syscall.SIGSTOP)
	case g.strikes("program", step, r):
		g.say(map[string]any{"event": "fault", "chip": "chip-0", "code": "31"})
		g.say(map[string]any{"event": "fault", "chip": "chip-1", "code": "31"})
		die(syscall.SIGSTOP)
	case g.strikes("flood", step, r):
		line := strings.Repeat("log flood ", 100) + "\n"
		for range 70_000 {
			fmt.Print(line)
		}
	case g.strikes("spot", step, r):
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		<-time.After(20 * time.Millisecond)
	}
	return 0, false
}

// after does what the plan has for the checkpoint that was just written; the
// process dies with it, so that it is the newest.
func (g *group) after() {
	dir := filepath.Join(g.root, fmt.Sprintf("step-%08d", g.step))
	model := filepath.Join(dir, "model.safetensors")
	switch {
	case g.strikes("truncate", g.step, 0):
		_ = os.Truncate(model, 60)
	case g.strikes("bit-flip", g.step, 0):
		b, err := os.ReadFile(model)
		if err != nil {
			panic(err)
		}
		b[len(b)-3] ^= 0x10
		if err := os.WriteFile(model, b, 0o644); err != nil {
			panic(err)
		}
	case g.strikes("lost-shard", g.step, 0):
		_ = os.Remove(filepath.Join(dir, "notes.txt"))
	case g.strikes("half-renamed", g.step, 0): // killed before the manifest
		_ = os.Remove(filepath.Join(dir, "manifest.json"))
	case g.strikes("future", g.step, 0): // a whole checkpoint of a step that nobody has done
		was := g.step
		g.step += 20
		quiet := g.plan.Silent
		g.plan.Silent = true
		err := g.save()
		g.plan.Silent, g.step = quiet, was
		if err != nil {
			panic(err)
		}
	default:
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// runRank is a rank other than 0: it answers each step with its share.
func runRank(notes, rankText string) int {
	r, err := strconv.Atoi(rankText)
	if err != nil {
		return 2
	}
	g := &group{notes: notes}
	b, err := os.ReadFile(filepath.Join(notes, "plan.json"))
	if err != nil || json.Unmarshal(b, &g.plan) != nil {
		return 2
	}
	g.plan.Silent = true // rank 0 speaks
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var ask struct {
			Step int
			Data int
			W    []float64
		}
		if err := json.Unmarshal(lines.Bytes(), &ask); err != nil {
			return 2
		}
		if code, over := g.strike(ask.Step, r); over {
			return code
		}
		nan := g.strikes("nan", ask.Step, r)
		share := make([]any, len(ask.W))
		for i, w := range ask.W {
			share[i] = gradient(g.plan.Seed, ask.Data, r, i, w)
			if nan {
				share[i] = nil
			}
		}
		b, err := json.Marshal(share)
		if err != nil {
			return 2
		}
		if _, err := os.Stdout.Write(append(b, '\n')); err != nil {
			return 2
		}
	}
	return 0
}
