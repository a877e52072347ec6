package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// The trainers that train.trainer and pools[].trainer name.
const (
	TrainerReference = "reference" // the model in plain Go
	TrainerTorchrun  = "torchrun"  // PyTorch
	TrainerCommand   = "command"   // any program that speaks the trainer contract
)

// Trainers lists them.
func Trainers() []string { return []string{TrainerReference, TrainerTorchrun, TrainerCommand} }

// TrainerOf is what trains in a pool, and the command that starts it if that is
// TrainerCommand. What a pool says for itself goes before the train section.
func (s *Release) TrainerOf(pool string) (name string, command []string) {
	name, command = s.Train.Trainer, s.Train.Command
	for _, p := range s.Pools {
		if p.Name != pool {
			continue
		}
		if p.Trainer != "" {
			name = p.Trainer
		}
		if len(p.Command) > 0 {
			command = p.Command
		}
	}
	if name != TrainerCommand {
		return name, nil
	}
	return name, command
}

// Trains says whether a pool may train.
func (p Pool) Trains() bool {
	return slices.Contains(p.Roles, Preferred) || slices.Contains(p.Roles, Fallback)
}

// resolveCommands makes the files that commands name absolute, and lists their
// fields: an element that begins with ./ or ../ is a file, any other is text.
func (s *Release) resolveCommands() (files []string) {
	resolve := func(path string, argv []string) {
		for i, e := range argv {
			if strings.HasPrefix(e, "./") || strings.HasPrefix(e, "../") {
				argv[i] = filepath.Join(s.Dir, filepath.FromSlash(e))
				files = append(files, fmt.Sprintf("%s[%d]", path, i))
			}
		}
	}
	resolve("train.command", s.Train.Command)
	for i, p := range s.Pools {
		resolve(fmt.Sprintf("pools[%d].command", i), p.Command)
	}
	return files
}

// trainers checks that every command has a trainer that it starts and the other
// way round, and that what it names is there.
func (d *decoder) trainers(s *Release, files []string) {
	t := s.Train
	if len(t.Command) > 0 && t.Trainer != TrainerCommand && slices.Contains(Trainers(), t.Trainer) {
		d.add(d.at("train.command"), "add `trainer: command`, or remove the command", "train.command starts nothing: train.trainer is %s", t.Trainer)
	}
	d.command("train.command", t.Command, files)
	lacking := false
	for i, p := range s.Pools {
		path := fmt.Sprintf("pools[%d]", i)
		d.command(path+".command", p.Command, files)
		name, field := p.Trainer, path+".trainer"
		if name == "" {
			name, field = t.Trainer, path+".command"
			if !p.Trains() { // the judge's, unless it says otherwise
				name = TrainerReference
			}
		}
		switch {
		case !slices.Contains(Trainers(), name): // reported already
		case (p.Trainer != "" || len(p.Command) > 0) && !p.Trains() && !slices.Contains(p.Roles, Reference):
			d.add(d.at(field), "remove it, or give the pool the role preferred, fallback or reference", "%s: pool %s does not train", field, short(p.Name))
		case len(p.Command) > 0 && name != TrainerCommand:
			d.add(d.at(path+".command"), "add `trainer: command` to the pool, or remove the command", "%s.command starts nothing: the pool's trainer is %s", path, name)
		case name != TrainerCommand || len(p.Command) > 0 || len(t.Command) > 0 && t.Trainer == TrainerCommand:
		case p.Trainer != "":
			d.missing(path+".command", ", and the pool's trainer is command")
		case p.Trains():
			lacking = true
		}
	}
	if lacking {
		d.missing("train.command", ", and train.trainer is command")
	}
}

// command checks one: its program is found by name in PATH, or is a file.
func (d *decoder) command(path string, argv, files []string) {
	if len(argv) > 0 && strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
		first := path + "[0]"
		d.add(d.at(first), fmt.Sprintf("write `./%s` for a file beside the release file", short(argv[0])), "%s: %s is neither a name in PATH nor a file", first, short(argv[0]))
	}
	for i, e := range argv {
		if field := fmt.Sprintf("%s[%d]", path, i); slices.Contains(files, field) {
			d.readable(field, e, e)
		}
	}
}
