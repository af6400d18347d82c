-- fieldsync, the hub's half. Two schemas: sync_control is what operators read and write (four tables,
-- everything else there a view or a function); fieldsync is the machinery.
--
-- Nothing here is open to PUBLIC. A device's login gets the role fieldsync_device, whose grants stand in 90_grants.sql.

CREATE SCHEMA sync_control;
CREATE SCHEMA fieldsync;
