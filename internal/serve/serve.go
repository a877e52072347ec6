package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/executor"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// Input of a serving.
type Input struct {
	Executor  executor.Executor
	Engine    engine.Engine
	TaskName  string
	Model     engine.Model // Name is what clients ask for
	Device    device.Device
	Precision string
	Threads   int
	Spec      spec.Serve // address and smoke prompt

	// Certificate is the file that must be valid, and CheckCertificate the
	// function that says so.
	Certificate      string
	CheckCertificate func(ctx context.Context, path string) error

	// Up leaves the endpoint running once it has passed.
	Up bool
	// Wait is how long it may take to become ready; default 10 minutes.
	Wait     time.Duration
	Now      func() time.Time
	Progress progress.Func
}

// Report of a serving.
type Report struct {
	Gate  gate.Result `json:"gate"`
	URL   string      `json:"url,omitempty"`
	Model string      `json:"model"` // what clients ask for
	Task  string      `json:"task,omitempty"`
	// Answer is the smoke prompt's greedy completion, Chat its answer through
	// the chat template.
	Smoke  string `json:"smoke"`
	Answer string `json:"answer"`
	Chat   string `json:"chat"`
	// ReadySeconds from start to the first answer of /v1/models.
	ReadySeconds float64 `json:"ready_seconds"`
	// TokensPerSecond generated, of Batch requests at once.
	TokensPerSecond float64 `json:"tokens_per_second"`
	Batch           int     `json:"batch"`
}

const (
	smokeTokens = 64
	speedBatch  = 8
	speedTokens = 32
)

// Run serves the model and judges. The deployment is not nil only with Up and
// a pass; the caller stops it. The error is for what kept it from a verdict:
// an address in use (wraps EADDRINUSE), an engine that does not start.
func Run(ctx context.Context, in Input) (*Report, *engine.Deployment, error) {
	host, port, err := address(in.Spec.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("serve: %w", err)
	}
	if in.CheckCertificate == nil {
		return nil, nil, errors.New("serve: nothing to check the certificate with")
	}
	now := in.Now
	if now == nil {
		now = time.Now
	}
	r := &Report{Model: in.Model.Name, Smoke: in.Spec.Smoke}
	certified := checkCertificate(ctx, in)
	if certified.Verdict != gate.Pass {
		r.Gate = gate.Of(certified)
		return r, nil, ctx.Err()
	}
	began := now()
	dp := engine.Deployer{Executor: in.Executor, Engine: in.Engine, Wait: in.Wait, Stage: "serve", Progress: in.Progress}
	dep, err := dp.Deploy(ctx, in.TaskName, in.Model, in.Device, engine.Options{
		Host: host, Port: port, Precision: in.Precision, Threads: in.Threads,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("serve at %s: %w", in.Spec.Addr, err)
	}
	r.URL, r.Task, r.ReadySeconds = dep.URL, dep.Name, now().Sub(began).Seconds()
	checks := []gate.Check{certified, {Name: "ready", Verdict: gate.Pass, Detail: fmt.Sprintf("%s after %.2f s", dep.URL, r.ReadySeconds)}}
	in.Progress.Report(progress.Update{Stage: "serve", Note: "asking " + dep.URL})
	checks = append(checks, ask(ctx, in, dep, now, r)...)
	r.Gate = gate.Of(checks...)
	if in.Up && r.Gate.Passed() && ctx.Err() == nil {
		return r, dep, nil
	}
	if err := errors.Join(ctx.Err(), dep.Stop(context.WithoutCancel(ctx))); err != nil {
		return nil, nil, fmt.Errorf("serve: %w", err)
	}
	return r, nil, nil
}

// address splits the spec's: "127.0.0.1:8000", ":8000", port 0 = any.
func address(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("serve.addr %q: %w", addr, err)
	}
	port, err := strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("serve.addr %q: %q is not a port", addr, p)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	return host, port, nil
}

func checkCertificate(ctx context.Context, in Input) gate.Check {
	c := gate.Check{Name: "certificate", Verdict: gate.Pass, Detail: "valid"}
	if err := in.CheckCertificate(ctx, in.Certificate); err != nil {
		c.Verdict, c.Detail = gate.Fail, err.Error()
	}
	return c
}

// ask puts the smoke prompt on every route and measures the speed.
func ask(ctx context.Context, in Input, dep *engine.Deployment, now func() time.Time, r *Report) []gate.Check {
	c := dep.Client()
	c.Patience = 5 * time.Second // it has just said that it is ready
	request := engine.CompletionRequest{Prompt: in.Spec.Smoke, MaxTokens: smokeTokens}
	chat := []engine.Message{{Role: "user", Content: in.Spec.Smoke}}
	routes := []struct {
		name string
		call func() (string, error)
	}{
		{"completions", func() (string, error) {
			got, err := c.Complete(ctx, request)
			if err != nil {
				return "", err
			}
			r.Answer = got[0].Text
			return r.Answer, nil
		}},
		{"completions stream", func() (string, error) {
			got, err := c.CompleteStream(ctx, request)
			return got.Text, err
		}},
		{"chat", func() (string, error) {
			got, err := c.Chat(ctx, chat, smokeTokens)
			r.Chat = got.Text
			return got.Text, err
		}},
		{"chat stream", func() (string, error) {
			got, err := c.ChatStream(ctx, chat, smokeTokens)
			return got.Text, err
		}},
	}
	var checks []gate.Check
	for _, route := range routes {
		text, err := route.call()
		checks = append(checks, answered(route.name, text, dep.Explain(ctx, err)))
	}
	speed, err := measure(ctx, c, in.Spec.Smoke, now)
	r.TokensPerSecond, r.Batch = speed, speedBatch
	check := gate.Check{Name: "speed", Verdict: gate.Pass, Detail: fmt.Sprintf("%.0f tokens/s, %d requests at once", speed, speedBatch)}
	if err != nil {
		check.Verdict, check.Detail = gate.Fail, dep.Explain(ctx, err).Error()
	}
	return append(checks, check)
}

func answered(name, text string, err error) gate.Check {
	switch {
	case err != nil:
		return gate.Check{Name: name, Verdict: gate.Fail, Detail: err.Error()}
	case strings.TrimSpace(text) == "":
		return gate.Check{Name: name, Verdict: gate.Fail, Detail: "the answer to the smoke prompt is empty"}
	}
	return gate.Check{Name: name, Verdict: gate.Pass, Detail: fmt.Sprintf("answered %q", shorten(text, 80))}
}

func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
