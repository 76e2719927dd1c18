package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/docker"
)

// An option that is accepted and then ignored deceives whoever gave it: -o
// encrypted=true would not encrypt. So each is honoured, or refused by its name.
// docs/docker.md has the table.

// dockersPrefix begins the options of Docker's own drivers, and those that Docker
// itself adds to a request.
const dockersPrefix = "com.docker.network."

// optionMTU is what Docker's own drivers take for the MTU of a network.
const optionMTU = dockersPrefix + "driver.mtu"

// checkNetworkOptions refuses what docker network create -o gave and the driver
// does not honour. generic is all of it; Docker adds nothing there.
func (d *Driver) checkNetworkOptions(ctx context.Context, generic map[string]any) error {
	for _, key := range slices.Sorted(maps.Keys(generic)) {
		switch key {
		case docker.OptionNetwork:
			if _, ok := generic[key].(string); !ok {
				return api.Errorf(api.CodeInvalid, "option %s is not a string; give the network's name", key)
			}
		case optionMTU:
			if err := d.checkMTU(ctx, generic[key]); err != nil {
				return err
			}
		default:
			return unknownOption("-o", key)
		}
	}
	return nil
}

// honoured gives those of a network's options that the driver here takes from Docker.
// Another host may have written others: it runs another release, or had another MTU.
func (d *Driver) honoured(ctx context.Context, network string, options map[string]string) (map[string]string, error) {
	taken := map[string]string{}
	for key, value := range options {
		err := d.checkNetworkOptions(ctx, map[string]any{key: value})
		switch {
		case err == nil:
			taken[key] = value
		case api.CodeOf(err) == api.CodeInvalid:
			d.Logger.Warn("an option of a docker network on another host is left out here", "network", network, "err", err)
		default:
			return nil, err
		}
	}
	return taken, nil
}

// checkMTU accepts the MTU that a network has anyway. It follows from the hosts'
// interfaces, and is the same on every host.
func (d *Driver) checkMTU(ctx context.Context, value any) error {
	said, _ := value.(string)
	mtu, err := strconv.Atoi(said)
	if err != nil || mtu <= 0 {
		return api.Errorf(api.CodeInvalid, "option %s is not a number of bytes; leave it out", optionMTU)
	}
	networks, err := d.Service.Networks(ctx)
	if err != nil {
		return err
	}
	if len(networks) == 0 {
		return api.Errorf(api.CodeInvalid, "option %s cannot be used: the MTU follows from the hosts' interfaces; leave it out", optionMTU)
	}
	if n := networks[0]; n.MTU != mtu { // it is the same on all
		return api.Errorf(api.CodeInvalid, "option %s=%d cannot be used: the MTU is %d on every network, as the hosts' interfaces allow; leave it out", optionMTU, mtu, n.MTU)
	}
	return nil
}

// checkPoolOptions refuses --ipam-opt: Docker passes on what a user gave, and adds
// nothing.
func checkPoolOptions(options map[string]string) error {
	if keys := slices.Sorted(maps.Keys(options)); len(keys) > 0 {
		return unknownOption("--ipam-opt", keys[0])
	}
	return nil
}

// Options of an endpoint that are Docker's, although their values are strings.
var dockersEndpointOptions = map[string]bool{
	dockersPrefix + "endpoint.macaddress": true, // the interface's, in base64
	dockersPrefix + "endpoint.sysctls":    true, // Docker sets them itself, whatever the driver
}

// Options of an endpoint that are ours. Docker keeps one value for each key, so the
// addresses are one text, with commas or spaces between them.
const (
	optionAllow      = docker.DriverName + ".allow-address"
	optionForwarding = docker.DriverName + ".forwarding"
)

// endpointWish is what the options of an endpoint ask for.
type endpointWish struct {
	allow      []string
	forwarding bool
}

// endpointOptions reads what docker network connect --driver-opt gave, and run
// --network name=...,driver-opt=..., and refuses what it does not know. Docker adds
// options of its own to the same map. A user's values are strings; Docker's are
// lists and numbers, and pass, also those that only a later Docker has.
func endpointOptions(options map[string]json.RawMessage) (w endpointWish, err error) {
	for _, key := range slices.Sorted(maps.Keys(options)) {
		users := bytes.HasPrefix(bytes.TrimSpace(options[key]), []byte(`"`))
		if strings.HasPrefix(key, dockersPrefix) && (!users || dockersEndpointOptions[key]) {
			continue
		}
		var value string
		if key != optionAllow && key != optionForwarding {
			return w, unknownOption("--driver-opt", key)
		}
		if err := json.Unmarshal(options[key], &value); err != nil {
			return w, api.Errorf(api.CodeInvalid, "option %s is not a string", key)
		}
		if key == optionForwarding {
			if w.forwarding, err = strconv.ParseBool(value); err != nil {
				return w, api.Errorf(api.CodeInvalid, "option %s is true or false, not %.40q", key, value)
			}
			continue
		}
		w.allow = strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })
		if len(w.allow) == 0 {
			return w, api.Errorf(api.CodeInvalid, "option %s names no address; leave it out", key)
		}
	}
	return w, nil
}

func unknownOption(flag, key string) error {
	return api.Errorf(api.CodeInvalid, "option %.100q (%s) is not one of SocketPlane's; leave it out", key, flag)
}
