package powerstrip

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// Variables of a container that name its network.
const (
	envNetwork = "SP_NETWORK"
	envCIDR    = "SOCKETPLANE_CIDR"
)

// Create gives the body with which Docker is to create a container: the one that
// came, byte by byte, unless its environment names a network of ours. Every
// failure is an *api.Error.
func (a *Adapter) Create(ctx context.Context, body []byte) ([]byte, error) {
	if len(strings.TrimSpace(string(body))) == 0 {
		return body, nil // Docker says what it lacks
	}
	whole, env, err := parseEnv(body)
	if err != nil {
		return nil, unreadable(err)
	}
	w, err := wishOf(env)
	if err != nil {
		return nil, err
	}
	if w.empty() {
		return body, nil
	}
	c, err := parseConfig(whole)
	if err != nil {
		return nil, unreadable(err)
	}
	n, found, err := a.find(ctx, w)
	if err != nil {
		return nil, err
	}
	// Nothing is made for a container that is refused.
	if !c.free() && !found {
		return nil, c.refuse(w)
	}
	if !found {
		if n, err = a.make(ctx, w); err != nil {
			return nil, err
		}
	}
	name, err := a.cfg.DockerNetwork(ctx, n.ID)
	if err != nil {
		return nil, err
	}
	if !c.free() && c.mode != name {
		return nil, c.refuse(w)
	}
	return c.on(name)
}

func unreadable(err error) error {
	return api.Errorf(api.CodeInvalid, "the container's configuration cannot be read: %w", err)
}

// parseEnv reads a configuration as far as it has to be for every container.
func parseEnv(body []byte) (whole *jsonobject.Object, env []string, err error) {
	if whole, err = jsonobject.Parse(body); err != nil {
		return nil, nil, err
	}
	key, err := whole.Fold("Env")
	if err != nil {
		return nil, nil, err
	}
	if raw := whole.Get(key); !jsonobject.IsNull(raw) && json.Unmarshal(raw, &env) != nil {
		return nil, nil, fmt.Errorf("key %q is no array of texts", key)
	}
	return whole, env, nil
}

// config is what a container is to be, as far as its network goes. Keys are
// those that the client spelt.
type config struct {
	whole        *jsonobject.Object
	hostKey      string
	host         *jsonobject.Object // HostConfig
	modeKey      string
	mode         string // HostConfig.NetworkMode
	netKey       string
	networking   *jsonobject.Object // NetworkingConfig
	endpointsKey string
	endpoints    *jsonobject.Object // NetworkingConfig.EndpointsConfig
}

func parseConfig(whole *jsonobject.Object) (c config, err error) {
	c.whole = whole
	if c.hostKey, c.host, err = child(whole, "HostConfig"); err != nil {
		return c, err
	}
	if c.modeKey, err = c.host.Fold("NetworkMode"); err != nil {
		return c, err
	}
	if raw := c.host.Get(c.modeKey); raw != nil && json.Unmarshal(raw, &c.mode) != nil {
		return c, fmt.Errorf("key %q is no text", c.modeKey)
	}
	if c.netKey, c.networking, err = child(whole, "NetworkingConfig"); err != nil {
		return c, err
	}
	c.endpointsKey, c.endpoints, err = child(c.networking, "EndpointsConfig")
	return c, err
}

// child reads an object below o, whatever the case of its key.
func child(o *jsonobject.Object, name string) (key string, c *jsonobject.Object, err error) {
	if key, err = o.Fold(name); err != nil {
		return "", nil, err
	}
	c, err = o.Child(key)
	return key, c, err
}

// free says whether the container asks for no network of Docker's by itself.
func (c config) free() bool { return c.mode == "" || c.mode == "default" || c.mode == "bridge" }

func (c config) refuse(w wish) error {
	return api.Errorf(api.CodeInvalid, "the container asks for network mode %.80q and for %s; leave one of them out", c.mode, w)
}

// on gives the configuration with the container on a network of Docker's. What
// it says of its endpoint on Docker's default network (an address, aliases) it
// then says of this one.
func (c config) on(name string) ([]byte, error) {
	for _, key := range c.endpoints.Keys() {
		if key != "default" && key != "bridge" && key != cmp.Or(c.mode, "default") {
			continue
		}
		if err := c.endpoints.Rename(key, name); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "EndpointsConfig: %w", err)
		}
		c.networking.Set(c.endpointsKey, c.endpoints.Bytes())
		c.whole.Set(c.netKey, c.networking.Bytes())
	}
	c.host.Set(c.modeKey, jsonobject.String(name))
	c.whole.Set(c.hostKey, c.host.Bytes())
	return c.whole.Bytes(), nil
}
