package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tarbert/internal/device"
)

func (a *app) devicesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "devices", Short: "List this machine's chips, and which vendors' tools are absent", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			deps, done, err := a.deps(c.Context())
			if err != nil {
				return err
			}
			defer done()
			nodes, err := deps.Executors["local"].Nodes(c.Context())
			if err != nil {
				return environment(err)
			}
			if a.json {
				return a.printJSON(nodes)
			}
			fmt.Fprint(a.Out, renderNodes(nodes))
			return nil
		},
	}
}

func renderNodes(nodes []device.Node) string {
	var b strings.Builder
	for _, n := range nodes {
		fmt.Fprintf(&b, "%s (%s/%s)\n", n.Name, n.OS, n.Arch)
		rows := [][]string{{"  vendor", "id", "model", "memory", "health", "features"}}
		for _, d := range n.Devices {
			memory := "unknown"
			if d.Memory > 0 {
				memory = bytesText(d.Memory)
			}
			model := d.Model
			if d.Cores > 0 {
				model = fmt.Sprintf("%d × %s", d.Cores, model)
			}
			rows = append(rows, []string{"  " + string(d.Vendor), d.ID, model, memory, string(d.Health), strings.Join(d.Features, " ")})
		}
		b.WriteString(table(rows))
		for _, v := range []device.Vendor{device.NVIDIA, device.Ascend, device.CPU} {
			if why, ok := n.Absent[v]; ok {
				fmt.Fprintf(&b, "  %s: absent (%s)\n", v, why)
			}
		}
	}
	return b.String()
}
