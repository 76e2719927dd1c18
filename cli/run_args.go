package cli

import (
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
)

// runArgs is a parsed command line of `run`.
type runArgs struct {
	// Our own flags.
	network    string
	ip         string
	ports      []api.PortMapping
	publishAll bool
	allow      []string
	forwarding bool
	help       bool
	debug      bool
	socket     string
	config     string

	// Docker's flags that `docker create` does not have, or that determine how to start.
	name        string
	cidFile     string
	detach      bool
	interactive bool
	tty         bool
	autoRemove  bool
	attach      []string // streams of -a
	detachKeys  string
	sigProxy    bool

	// create contains the arguments for `docker create`: flags, image, command.
	create []string
}

// flagToken is one flag as the user wrote it.
type flagToken struct {
	name    string // without dashes
	value   string
	valued  bool     // a value was given
	passing []string // the same flag for Docker
}

// parseRun parses the arguments of `run` like Docker does (pflag without interspersing):
// flags up to the first other argument, which is the image.
func parseRun(argv []string) (runArgs, error) {
	r := runArgs{network: api.DefaultNetwork, sigProxy: true}
	booleans := dockerBooleans()
	var flags []string
	rest := argv
	for len(rest) > 0 {
		word := rest[0]
		if word == "--" {
			rest = rest[1:]
			break
		}
		if len(word) < 2 || word[0] != '-' {
			break
		}
		var tokens []flagToken
		var err error
		if strings.HasPrefix(word, "--") {
			tokens, rest, err = longFlag(rest, booleans)
		} else {
			tokens, rest, err = shortFlags(rest, booleans)
		}
		if err != nil {
			return runArgs{}, err
		}
		for _, t := range tokens {
			pass, err := r.take(t)
			if err != nil {
				return runArgs{}, err
			}
			if pass {
				flags = append(flags, t.passing...)
			}
		}
	}
	if r.help {
		return r, nil
	}
	if len(rest) == 0 {
		return runArgs{}, usagef("no image is named; usage: socketplane run [-n NETWORK] [--ip ADDR] DOCKER_RUN_ARGS")
	}
	if err := r.check(); err != nil {
		return runArgs{}, err
	}
	// A detached container must not get a stdin that no one closes.
	if r.detach {
		flags = append(flags, "--attach", "stdout", "--attach", "stderr")
	}
	r.create = append(append(flags, "--"), rest...)
	return r, nil
}

// longFlag parses --name, --name=value or --name value.
func longFlag(argv []string, booleans map[string]bool) ([]flagToken, []string, error) {
	name, value, valued := strings.Cut(argv[0][2:], "=")
	if name == "" {
		return nil, nil, usagef("%q is not a flag", argv[0])
	}
	t := flagToken{name: name, value: value, valued: valued, passing: argv[:1]}
	if valued || booleans[name] {
		return []flagToken{t}, argv[1:], nil
	}
	if len(argv) < 2 {
		return nil, nil, usagef("flag --%s needs a value", name)
	}
	t.value, t.valued, t.passing = argv[1], true, argv[:2]
	return []flagToken{t}, argv[2:], nil
}

// shortFlags parses -b, -bcd, -v value, -vvalue, -v=value, and booleans before the last
// three.
func shortFlags(argv []string, booleans map[string]bool) ([]flagToken, []string, error) {
	var tokens []flagToken
	cluster := argv[0][1:]
	for cluster != "" {
		name := cluster[:1]
		cluster = cluster[1:]
		if booleans[name] {
			t := flagToken{name: name, passing: []string{"-" + name}}
			if strings.HasPrefix(cluster, "=") {
				t.value, t.valued, t.passing = cluster[1:], true, []string{"-" + name + cluster}
				cluster = ""
			}
			tokens = append(tokens, t)
			continue
		}
		t := flagToken{name: name, valued: true}
		if cluster != "" {
			t.value = strings.TrimPrefix(cluster, "=")
			t.passing = []string{"-" + name + cluster}
			return append(tokens, t), argv[1:], nil
		}
		if len(argv) < 2 {
			return nil, nil, usagef("flag -%s needs a value", name)
		}
		t.value, t.passing = argv[1], []string{"-" + name, argv[1]}
		return append(tokens, t), argv[2:], nil
	}
	return tokens, argv[1:], nil
}

// take stores a flag and reports whether to pass it to `docker create` too.
func (r *runArgs) take(t flagToken) (pass bool, err error) {
	if why := refusal(t.name); why != "" {
		return false, usagef("%s cannot be used: %s", flagText(t.name), why)
	}
	switch canonical(t.name) {
	case "network":
		r.network = t.value
	case "ip":
		if t.value == "" {
			return false, usagef("--ip needs an address")
		}
		r.ip = t.value
	case "publish":
		ports, err := parsePublish(t.value)
		if err != nil {
			return false, err
		}
		r.ports = append(r.ports, ports...)
	case "allow-address":
		r.allow = append(r.allow, t.value)
	case "forwarding":
		return false, boolean(t, &r.forwarding)
	case "publish-all":
		return false, boolean(t, &r.publishAll)
	case "socket":
		r.socket = t.value
	case "config":
		r.config = t.value
	case "help":
		return false, boolean(t, &r.help)
	case "debug":
		return false, boolean(t, &r.debug)
	case "detach":
		return false, boolean(t, &r.detach)
	case "sig-proxy":
		return false, boolean(t, &r.sigProxy)
	case "detach-keys":
		r.detachKeys = t.value
	case "name":
		r.name = t.value
		return true, nil
	case "cidfile":
		r.cidFile = t.value
		return true, nil
	case "attach":
		r.attach = append(r.attach, t.value)
		return true, nil
	case "interactive":
		return true, boolean(t, &r.interactive)
	case "tty":
		return true, boolean(t, &r.tty)
	case "rm":
		return true, boolean(t, &r.autoRemove)
	default:
		return true, nil
	}
	return false, nil
}

func boolean(t flagToken, into *bool) error {
	if !t.valued {
		*into = true
		return nil
	}
	v, err := strconv.ParseBool(t.value)
	if err != nil {
		return usagef("%s is true or false, not %q", flagText(t.name), t.value)
	}
	*into = v
	return nil
}

// check returns the errors that can be found before anything is created.
func (r *runArgs) check() error {
	if err := api.CheckNetworkName(r.network); err != nil {
		return err
	}
	if r.ip != "" {
		if _, err := api.ParseIP(r.ip); err != nil {
			return err
		}
	}
	if err := api.CheckPorts(r.ports); err != nil {
		return err
	}
	if err := checkAllowed(r.allow, r.forwarding); err != nil {
		return err
	}
	if r.detach && len(r.attach) > 0 {
		return usagef("-a and -d exclude each other")
	}
	return nil
}
