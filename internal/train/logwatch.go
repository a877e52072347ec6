package train

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A script that does not speak the contract is supervised by what it prints:
// less is known of it then, and the report says so.

// stepPatterns read steps from logs. Named groups: step, loss, grad_norm; a
// line without a step is the next one.
func stepPatterns() []*regexp.Regexp {
	const number = `[-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|NaN|inf|Infinity)`
	return []*regexp.Regexp{
		// Megatron-LM, MindSpeed-LLM: "iteration 10/ 100 | … | lm loss: 1.2E+00 | … | grad norm: 0.5 |"
		regexp.MustCompile(`iteration\s+(?P<step>\d+)/\s*\d+ .*?lm loss:\s*(?P<loss>` + number + `)(?:.*?grad norm:\s*(?P<grad_norm>` + number + `))?`),
		// transformers' Trainer: "{'loss': 0.53, 'grad_norm': 1.2, …}"
		regexp.MustCompile(`\{'loss': '?(?P<loss>` + number + `)'?,(?: 'grad_norm': '?(?P<grad_norm>` + number + `)'?,)?`),
		// torchtitan, verl and the like: "step: 10  loss: 3.4  grad_norm: 0.9"
		regexp.MustCompile(`(?i)\bstep[:= ]\s*(?P<step>\d+)\b.*?\bloss[:= ]\s*(?P<loss>` + number + `)(?:.*?\bgrad_?norm[:= ]\s*(?P<grad_norm>` + number + `))?`),
	}
}

// logLine reads a step from a line, by the first pattern that fits.
func logLine(patterns []*regexp.Regexp, line string, last int) (event, bool) {
	for _, re := range patterns {
		m := re.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		e := event{Event: "step", Step: last + 1, values: map[string]float64{}}
		for i, name := range re.SubexpNames() {
			if name == "" || m[i] == "" {
				continue
			}
			if name == "step" {
				if n, err := strconv.Atoi(m[i]); err == nil {
					e.Step = n
				}
				continue
			}
			x, err := strconv.ParseFloat(m[i], 64)
			if err != nil || x-x != 0 { // NaN or infinite
				if e.bad == "" {
					e.bad = name
				}
				continue
			}
			e.values[name] = x
		}
		return e, true
	}
	return event{}, false
}

// logTailer takes in a log as it grows: it is an io.Writer that an executor
// copies the whole log to, again and again, and passes on what is new.
type logTailer struct {
	taken int64 // bytes of whole lines taken in
	skip  int64
	rest  []byte
	held  int64 // length of the unfinished line, of which rest is the beginning
	lines []string
}

func (l *logTailer) rewind() { l.skip, l.rest, l.held = l.taken, l.rest[:0], 0 }

func (l *logTailer) Write(p []byte) (int, error) {
	n := len(p)
	drop := min(int64(len(p)), l.skip)
	l.skip -= drop
	for p = p[drop:]; len(p) > 0; {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.held += int64(len(p))
			if len(l.rest)+len(p) <= longestLine {
				l.rest = append(l.rest, p...)
			}
			break
		}
		line := string(append(l.rest, p[:i]...))
		l.taken += l.held + int64(i+1)
		l.rest, l.held = l.rest[:0], 0
		l.lines = append(l.lines, line)
		p = p[i+1:]
	}
	return n, nil
}

// signature is what a line in a log means.
type signature struct {
	pattern *regexp.Regexp
	meaning string
}

// signatures are the causes that logs name most often.
func signatures() []signature {
	sig := func(pattern, meaning string) signature { return signature{regexp.MustCompile(pattern), meaning} }
	return []signature{
		sig(`(?i)no space left on device`, "the disk is full"),
		sig(`(?i)(CUDA|NPU|HIP) out of memory|OutOfMemoryError|207001`, "the chip's memory is full: a smaller batch, or more sharding"),
		sig(`Xid.*?: (\d+),`, "the driver reported Xid $1"),
		sig(`EI0002`, "a collective waited in vain (EI0002): another rank stopped first, look at the earliest"),
		sig(`EI0006`, "ranks did not connect in time (EI0006): raise HCCL_CONNECT_TIMEOUT, or a rank started late"),
		sig(`EI000[34]`, "the rank table is invalid ($0)"),
		sig(`507035|507015`, "a core exception ($0): on all ranks at once it is the program, on one the chip"),
		sig(`507046|107020`, "a task or stream did not end in time ($0): a hang in a collective or an operator"),
		sig(`507049|507013`, "a DMA fault ($0): memory pool or driver"),
		sig(`207008`, "no stream resources left (207008): capture fewer graph sizes"),
		sig(`cqe error status\[12\]`, "RDMA retransmissions ran out: look at the link"),
		sig(`(?i)Watchdog caught collective operation timeout`, "a collective timed out (NCCL watchdog): another rank stopped first"),
		sig(`(?i)address already in use|ra socket listen start fail`, "the port is in use: an older process lives, or another run has it"),
		sig(`(?i)CUDA error: device-side assert`, "an assertion failed on the chip: it is the program, an index out of range as a rule"),
	}
}

// explain names the first cause that a log's end speaks of, or nothing.
func explain(log string) string {
	for line := range strings.Lines(log) {
		for _, s := range signatures() {
			m := s.pattern.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			text := strings.ReplaceAll(s.meaning, "$0", m[0])
			if len(m) > 1 {
				text = strings.ReplaceAll(text, "$1", m[1])
			}
			return fmt.Sprintf("%s (%.120q)", text, strings.TrimSpace(line))
		}
	}
	return ""
}
