-- wrk sends each request as another visitor.
local number = 0

function request()
  number = (number + 1) % 5000
  return wrk.format("GET", "/", { ["x-user-id"] = "user-" .. number })
end
