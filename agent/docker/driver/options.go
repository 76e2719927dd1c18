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

// An option that is accepted and then ignored deceives its user: -o encrypted=true would
// not encrypt. So the driver honours each option or rejects it by name. docs/docker.md has
// the table.

// dockersPrefix is the prefix of the options of Docker's own drivers and of those that
// Docker adds to a request.
const dockersPrefix = "com.docker.network."

// optionMTU is the option of Docker's own drivers for the MTU of a network.
const optionMTU = dockersPrefix + "driver.mtu"

// checkNetworkOptions rejects options of docker network create -o that the driver does not
// honour. generic contains only these options; Docker adds none.
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

// honoured returns the options that this driver honours. It drops options of another host
// that are invalid here, because that host runs another release or had another MTU.
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

// checkMTU accepts only the MTU that networks have anyway. It follows from the hosts'
// interfaces and is the same on every host.
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
	if n := networks[0]; n.MTU != mtu { // all networks have the same MTU
		return api.Errorf(api.CodeInvalid, "option %s=%d cannot be used: the MTU is %d on every network, as the hosts' interfaces allow; leave it out", optionMTU, mtu, n.MTU)
	}
	return nil
}

// checkPoolOptions rejects --ipam-opt. options contains only what the user gave; Docker
// adds none.
func checkPoolOptions(options map[string]string) error {
	if keys := slices.Sorted(maps.Keys(options)); len(keys) > 0 {
		return unknownOption("--ipam-opt", keys[0])
	}
	return nil
}

// dockersEndpointOptions are endpoint options of Docker's own whose values are strings,
// like a user's.
var dockersEndpointOptions = map[string]bool{
	dockersPrefix + "endpoint.macaddress": true, // the interface's, in base64
	dockersPrefix + "endpoint.sysctls":    true, // Docker applies them itself with any driver
}

// Endpoint options of this driver. Docker keeps one value per key, so the addresses are
// one string, separated by commas or spaces.
const (
	optionAllow      = docker.DriverName + ".allow-address"
	optionForwarding = docker.DriverName + ".forwarding"
)

// endpointWish contains the parsed options of an endpoint.
type endpointWish struct {
	allow      []string
	forwarding bool
}

// endpointOptions parses the options of docker network connect --driver-opt and of run
// --network name=...,driver-opt=..., and rejects unknown ones. Docker adds its own options
// to the same map. A user's values are strings. Docker's are lists and numbers; they pass,
// including those of future Docker versions.
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
