package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"tarbert/internal/device"
	"tarbert/internal/plan"
	"tarbert/internal/progress"
	"tarbert/internal/release"
)

const needsSpec = "a plan file, a release file, or the folder that holds plan.yaml or release.yaml"

func (a *app) planCommand() *cobra.Command {
	var histories int
	c := &cobra.Command{
		Use: "plan SPEC|DIR", Short: "Choose pools and forecast the run: every option, the rejected ones with the number that broke them",
		Long: `Plan where a model is trained, when it is done and what it costs.

Given a plan file (plan.yaml: models by config.json or sizes, pools by inventory files, policy, start dates), every
option = pool × recipe × layout × start is judged: memory, step time, interruptions, finish (P50, P90), cost, energy.
Given a release file, the release is run up to its plan stage. Exit code 1 when no option is possible, or none is sure.`,
		Args: exactArgs(1, needsSpec),
		RunE: func(c *cobra.Command, args []string) error {
			if !plan.IsProject(args[0]) {
				return a.runRelease(c.Context(), args[0], release.Options{Until: "plan"})
			}
			out, err := a.outlook(c.Context(), args[0], histories)
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(out)
			} else {
				_, err = fmt.Fprint(a.Out, out.Text())
			}
			if err == nil && !out.Gate.Passed() {
				err = gateSaidNo()
			}
			return err
		},
	}
	c.Flags().IntVar(&histories, "histories", 0, "simulated histories of each option; 0 = the plan file's")
	return c
}

// outlook reads a plan file and judges its options.
func (a *app) outlook(ctx context.Context, path string, histories int) (*plan.Outlook, error) {
	p, err := plan.ReadProject(path)
	if err != nil {
		return nil, badUsage("%w", err)
	}
	if histories > 0 {
		p.Histories = histories
	}
	return a.makePlan(ctx, p)
}

// makePlan judges a plan's options, on the chips found here where a pool asks for that.
func (a *app) makePlan(ctx context.Context, p *plan.Project) (*plan.Outlook, error) {
	var found plan.Inventory
	if slices.ContainsFunc(p.Pools, func(x plan.ProjectPool) bool { return x.Detect != "" }) {
		nodes, err := a.detect(ctx)
		if err != nil {
			return nil, err
		}
		found = nodes
	}
	bar := a.bar("plan")
	out, err := p.Plan(found, bar)
	if bar != nil {
		bar(progress.Update{Done: 1, Total: 1}) // wipes the line
	}
	if err != nil {
		return nil, badUsage("%w", err)
	}
	return out, nil
}

// detect asks the drivers of this machine.
func (a *app) detect(ctx context.Context) ([]device.Node, error) {
	deps, done, err := a.deps(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	nodes, err := deps.Executors["local"].Nodes(ctx)
	if err != nil {
		return nil, environment(err)
	}
	return nodes, nil
}
