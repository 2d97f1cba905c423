-- Health of Millrace's Pipelines, Windows and Sinks for Argo CD. See docs/gitops.md.
local health = { status = "Progressing", message = "the operator has not looked at it yet" }
if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= nil and obj.status.observedGeneration < obj.metadata.generation then
  health.message = "the operator has not seen the latest edit yet"
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions) do
  conditions[condition.type] = condition
end
local function says(type, status)
  return conditions[type] ~= nil and conditions[type].status == status
end

if says("Stalled", "True") then
  return { status = "Degraded", message = conditions["Stalled"].message }
end
for _, type in ipairs({ "CheckpointHealthy", "SourcesHealthy", "SinksHealthy" }) do
  if says(type, "False") then
    return { status = "Degraded", message = type .. ": " .. conditions[type].message }
  end
end
if obj.status.phase == "Suspended" then
  return { status = "Suspended", message = "stopped at a savepoint, since spec.suspend is true" }
end
if says("Reconciling", "True") then
  return { status = "Progressing", message = conditions["Reconciling"].message }
end
if conditions["Ready"] ~= nil and conditions["Ready"].reason == "DryRun" then
  return { status = "Suspended", message = conditions["Ready"].message }
end
if says("Ready", "True") then
  return { status = "Healthy", message = conditions["Ready"].message }
end
if says("Ready", "False") then
  return { status = "Degraded", message = conditions["Ready"].message }
end
return health
